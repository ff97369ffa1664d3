"""Stage ``linear-probe``: score the trained weights without changing them."""

from pathlib import Path

from pipeline.tracking import LiveRun
from pipeline.train import ParamsFile, PreparedFolder
from pipeline.workspace import dvc_root, resume_folder, write_json
from semimae.cell import Cell


def linear_probe(
    prepared_folder: PreparedFolder = Path("../../prepared"),
    params_file: ParamsFile = Path("../../params.yaml"),
) -> None:
    """Score a trained cell on the test set, its weights as they are.

    Three ways: by its classifier, by a linear probe, and by its nearest neighbors.

    Example: cd runs/headline && python -m pipeline linear-probe
    """
    from semimae.data.files import held_lock
    from semimae.data.split import Split
    from semimae.data.store import Prepared, resolve_root
    from semimae.engine.fit import load_model
    from semimae.evaluation.probe import probe
    from semimae.params import Params

    folder, root = Path(), dvc_root()
    cell = Cell.read(folder / "config.json")
    prepared = Prepared.read(prepared_folder, resolve_root(cell.data.root, root))
    split = Split.read(folder / "split.json", prepared)
    model = load_model(folder / "train" / "model.safetensors", cell, prepared)
    config = Params.read(params_file).linear_probe
    lock = Path(f"{resume_folder(root, folder, 'linear-probe', config.model_dump_json())}.lock")
    # Seconds long, so it has no checkpoints: SIGTERM and Ctrl-C end it at once.
    with held_lock(lock, lambda: False), LiveRun(folder, root):
        result = probe(model, cell, prepared, split, config)
        write_json(folder / "linear_probe.json", result)
