"""Training without DVC and MLflow: from a script or a notebook, in one process."""

from collections.abc import Callable
from pathlib import Path

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Row
from semimae.engine.fit import temperature_of
from semimae.engine.phases import fit_phases
from semimae.files import remove_folder, replaced_file
from semimae.model_file import WEIGHTS, Trained, open_model, save_model
from semimae.options.cell import Cell
from semimae.options.train import Rhythm
from semimae.types import UserError


def fit(
    cell: Cell,
    prepared: Prepared,
    split: Split,
    rhythm: Rhythm,
    folder: Path,
    *,
    on_row: Callable[[str, Row], None] = lambda kind, row: None,
) -> Trained:
    """Train a cell in all its phases, and keep the moving average of its weights.

    If it was interrupted, the next call continues from the newest checkpoint. If the folder has the
    trained model already, it is opened.

    Args:
        cell: What to train; ``Params.cell`` returns one.
        prepared: The images.
        split: Which of them are labeled, unlabeled and for validation; ``split_for`` returns one.
        rhythm: How often rows are logged, the model is evaluated and the state is saved; the
            section ``train`` of ``Params`` is one.
        folder: Where ``model.safetensors`` is written, for this cell alone.
        on_row: Is told of each logged row, with ``"train"`` or ``"val"``.

    Raises:
        UserError: If the run does not fit into memory, it diverges, or the folder holds a model of
            another cell.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        state, _ = fit_phases(
            cell,
            prepared,
            split,
            rhythm,
            resume=folder / "checkpoints",
            finished=lambda phase: folder / "phases",
            on_row=on_row,
            should_stop=lambda: False,
        )
        with replaced_file(path) as temporary:
            save_model(state.ema, cell, prepared.info, temporary, temperature_of(state))
        remove_folder(folder / "checkpoints")
    trained = open_model(path)
    if trained.info.cell != cell:
        raise UserError(f"{path} was trained with other settings; give another folder.")
    return trained
