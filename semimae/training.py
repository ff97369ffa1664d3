"""Training without DVC and MLflow: from a script or a notebook, in one process."""

from collections.abc import Callable
from pathlib import Path

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Row
from semimae.engine.fit import temperature_of
from semimae.engine.folds import fit_run
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
    """Train a cell in all its phases, and save the moving average of its weights.

    After an interruption, the next call continues from the latest checkpoint. If the folder already
    contains the trained model, it is opened.

    Args:
        cell: What to train. ``Params.cell`` returns one.
        prepared: The images.
        split: Which images are labeled, unlabeled or for validation. ``split_for`` returns one.
        rhythm: How often to log rows, evaluate the model and save the state. The section ``train``
            of ``Params`` is one.
        folder: Folder for ``model.safetensors``. Use one folder per cell.
        on_row: Called with each logged row, and with ``"train"`` or ``"val"``.

    Raises:
        UserError: If the run does not fit into memory or diverges, or if the folder contains a
            model of another cell.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        state = fit_run(
            cell,
            prepared,
            split,
            rhythm,
            resume=folder / "checkpoints",
            finished=lambda phase: folder / "phases",
            on_row=on_row,
            should_stop=lambda: False,
        ).state
        with replaced_file(path) as temporary:
            save_model(state.ema, cell, prepared.info, temporary, temperature_of(state))
        remove_folder(folder / "checkpoints")
    trained = open_model(path)
    if trained.info.cell != cell:
        raise UserError(f"{path} was trained with other settings; choose another folder.")
    return trained
