"""Stage ``linear-probe``: score the trained weights without changing them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.source_code import short_hash, stage_code
from pipeline.stage import (
    PARAMS_ABOVE,
    PREPARED_ABOVE,
    Inputs,
    ParamsFile,
    PreparedFolder,
    read_inputs,
)
from pipeline.tracking import LiveRun
from pipeline.workspace import (
    HELD_OUT,
    PREDICTIONS,
    RECONSTRUCTIONS,
    dvc_root,
    phases_folder,
    read_json,
    resume_folder,
    write_arrays,
    write_json,
)

if TYPE_CHECKING:
    from semimae.engine.infer import HeldOut


def linear_probe(
    prepared_folder: PreparedFolder = PREPARED_ABOVE, params_file: ParamsFile = PARAMS_ABOVE
) -> None:
    """Score a trained cell on the test set, its weights as they are.

    Three ways: by its classifier, by a linear probe, and by its nearest neighbors. Where
    backbone.weights is set, these weights are scored too, as they were before the training.

    Example: cd runs/headline && python -m pipeline linear-probe
    """
    import numpy as np

    from semimae.evaluation.probe import probe
    from semimae.evaluation.reconstruct import reconstruct
    from semimae.files import held_lock
    from semimae.model_file import open_model

    folder, root = Path(), dvc_root()
    cell, params, prepared, split = read_inputs(folder, prepared_folder, params_file)
    model, info = open_model(folder, branch=True)
    options = params.linear_probe.model_dump_json()
    code = short_hash(stage_code("linear_probe"))
    lock = Path(f"{resume_folder(root, folder, 'linear-probe', code, options)}.lock")
    # Seconds long, so it has no checkpoints: SIGTERM and Ctrl-C end it at once.
    with held_lock(lock, lambda: False), LiveRun(folder, root):
        held_out = _held_out(folder) if split.folds else None
        found = probe(model, cell, prepared, split, params.linear_probe, info.temperature, held_out)
        unseen = np.asarray(split.val) if split.val else split.test(prepared)
        pictures = reconstruct(model, cell, prepared, unseen[:8])
        scores, predictions = found.scores, found.predictions
        if cell.backbone.weights is not None:
            frozen, of_frozen = _frozen(Inputs(cell, params, prepared, split), root, code)
            scores, predictions = scores | {"frozen": frozen}, predictions | of_frozen
        shown = {} if pictures is None else pictures._asdict()
        write_arrays(folder / RECONSTRUCTIONS, shown)
        write_arrays(folder / PREDICTIONS, predictions)
        write_json(folder / "linear_probe.json", scores)


def _held_out(folder: Path) -> "HeldOut":
    """Read what stage ``train`` has written beside the weights."""
    import numpy as np
    import torch

    from semimae.engine.infer import HeldOut

    with np.load(folder / "train" / HELD_OUT) as arrays:
        return HeldOut(arrays["rows"], torch.from_numpy(arrays["probabilities"]))


def _frozen(inputs: Inputs, root: Path, code: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score the starting weights, once for all cells that have the same ones and the same labels.

    Returns:
        What ``probe_start`` does, and the linear probe's ``frozen_predicted`` and
        ``frozen_confidence`` of the test images, as in predictions.npz.
    """
    import numpy as np

    from semimae.evaluation.frozen import frozen_key, probe_start
    from semimae.files import held_lock

    cell, params, prepared, split = inputs
    key = frozen_key(cell, prepared, split, params.linear_probe, code)
    path = phases_folder(root, code) / f"frozen-{key}.npz"
    record = path.with_suffix(".json")  # written last
    with held_lock(path.with_suffix(".lock"), lambda: False):
        if not record.is_file():
            scores, found = probe_start(cell, prepared, split, params.linear_probe)
            confidence, predicted = found.linear_probe.max(dim=1)
            arrays = {
                "frozen_predicted": predicted.numpy().astype(np.int32),
                "frozen_confidence": confidence.numpy().astype(np.float32),
            }
            write_arrays(path, arrays)
            write_json(record, scores)
        with np.load(path) as kept:
            return read_json(record), dict(kept)
