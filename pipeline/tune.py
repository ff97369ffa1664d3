"""Stage ``fine-tune``: train all weights further on the labeled images, and score them."""

from pathlib import Path

from pipeline.progress import Describe, progress
from pipeline.tracking import LiveRun
from pipeline.train import ParamsFile, PreparedFolder, Row
from pipeline.workspace import dvc_root, resume_folder, stop_requests, write_json
from semimae.cell import Cell


def fine_tune(
    prepared_folder: PreparedFolder = Path("../../prepared"),
    params_file: ParamsFile = Path("../../params.yaml"),
) -> None:
    """Fine-tune a trained cell and score it on the test set.

    All weights are trained further, on the labeled images alone.

    Example: cd runs/headline && python -m pipeline fine-tune
    """
    from semimae.data.files import held_lock, remove_folder
    from semimae.data.split import Split
    from semimae.data.store import Prepared, resolve_root
    from semimae.engine.checkpoint import Checkpoints
    from semimae.engine.fit import load_model
    from semimae.evaluation.fine_tune import fine_tune as tune
    from semimae.params import Params

    folder, root = Path(), dvc_root()
    cell = Cell.read(folder / "config.json")
    config = Params.read(params_file).fine_tune
    prepared = Prepared.read(prepared_folder, resolve_root(cell.data.root, root))
    split = Split.read(folder / "split.json", prepared)
    model = load_model(folder / "train" / "model.safetensors", cell, prepared)
    resume = resume_folder(root, folder, "fine-tune", config.model_dump_json())
    describe = Describe(config.batch_size)
    with (
        stop_requests() as stopped,
        held_lock(Path(f"{resume}.lock"), stopped.is_set),
    ):
        with (
            progress(f"{cell.name} fine-tune", config.steps) as update,
            LiveRun(folder, root),
        ):

            def on_row(kind: str, row: Row) -> None:
                update(int(row["step"]), describe(row))

            result = tune(
                model,
                cell,
                prepared,
                split,
                config,
                checkpoints=Checkpoints(resume),
                on_row=on_row,
                should_stop=stopped.is_set,
            )
            write_json(folder / "fine_tune.json", result)
        remove_folder(resume)
