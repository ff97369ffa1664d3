"""Stage ``fine-tune``: train all weights further on the labeled images, then evaluate."""

from pathlib import Path

from pipeline.progress import Describe, progress
from pipeline.source_code import fine_tuning_code, short_hash
from pipeline.stage import PARAMS_ABOVE, PREPARED_ABOVE, ParamsFile, PreparedFolder, read_inputs
from pipeline.tracking import LiveRun
from pipeline.train import Row
from pipeline.workspace import dvc_root, resume_folder, stop_requests, write_json


def fine_tune(
    prepared_folder: PreparedFolder = PREPARED_ABOVE, params_file: ParamsFile = PARAMS_ABOVE
) -> None:
    """Fine-tune a trained cell and evaluate it on the test set.

    All weights are trained further, on the labeled images only.

    Example: cd runs/headline && python -m pipeline fine-tune
    """
    from semimae.engine.checkpoint import Checkpoints
    from semimae.evaluation.fine_tune import fine_tune as tune
    from semimae.files import held_lock, remove_folder
    from semimae.model_file import open_model

    folder, root = Path(), dvc_root()
    cell, params, prepared, split = read_inputs(folder, prepared_folder, params_file)
    config = params.fine_tune
    model = open_model(folder).model
    code = short_hash(fine_tuning_code())
    resume = resume_folder(root, folder, "fine-tune", code, config.model_dump_json())
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
                params.train,
                checkpoints=Checkpoints(resume),
                on_row=on_row,
                should_stop=stopped.is_set,
            )
            write_json(folder / "fine_tune.json", result)
        remove_folder(resume)
