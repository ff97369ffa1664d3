"""Stage ``linear-probe``: score the trained weights without changing them."""

from pathlib import Path

from pipeline.source_code import short_hash, stage_code
from pipeline.stage import PARAMS_ABOVE, PREPARED_ABOVE, ParamsFile, PreparedFolder, read_inputs
from pipeline.tracking import LiveRun
from pipeline.workspace import PREDICTIONS, RECONSTRUCTIONS, dvc_root, resume_folder, write_json


def linear_probe(
    prepared_folder: PreparedFolder = PREPARED_ABOVE, params_file: ParamsFile = PARAMS_ABOVE
) -> None:
    """Score a trained cell on the test set, its weights as they are.

    Three ways: by its classifier, by a linear probe, and by its nearest neighbors.

    Example: cd runs/headline && python -m pipeline linear-probe
    """
    import numpy as np

    from semimae.evaluation.probe import probe
    from semimae.evaluation.reconstruct import reconstruct
    from semimae.files import held_lock, replaced_file
    from semimae.model_file import open_model

    folder, root = Path(), dvc_root()
    cell, params, prepared, split = read_inputs(folder, prepared_folder, params_file)
    model, info = open_model(folder, branch=True)
    options = params.linear_probe.model_dump_json()
    code = short_hash(stage_code("linear_probe"))
    lock = Path(f"{resume_folder(root, folder, 'linear-probe', code, options)}.lock")
    # Seconds long, so it has no checkpoints: SIGTERM and Ctrl-C end it at once.
    with held_lock(lock, lambda: False), LiveRun(folder, root):
        found = probe(model, cell, prepared, split, params.linear_probe, info.temperature)
        pictures = reconstruct(model, cell, prepared, np.asarray(split.val[:8]))
        arrays = {
            RECONSTRUCTIONS: {} if pictures is None else pictures._asdict(),
            PREDICTIONS: found.predictions,
        }
        for name, values in arrays.items():
            with replaced_file(folder / name) as path, path.open("wb") as file:
                np.savez(file, **values)
        write_json(folder / "linear_probe.json", found.scores)
