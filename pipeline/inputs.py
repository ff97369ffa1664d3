"""Stage ``inputs``: the code and the parts of params.yaml that each stage of a cell depends on."""

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path

from pipeline.outside import check_weights, hash_labeled_list
from pipeline.source_code import fine_tuning_code, stage_code, training_code
from pipeline.workspace import INPUTS, write_json
from semimae.options.method import METHODS
from semimae.options.params import Params

# Keys of params.yaml that affect config.json and split.json. The headline's split also depends on
# method, mask_ratio, label_fraction, num_labels and seed.
OF_SPLIT = (
    "dataset",
    "label_fraction",  # this and the next one: for null in the grid
    "num_labels",
    "refit",
    "data",
    "labeled",
    "backbone",
    "mim",
    "pseudo_label",
    "ssmae",
    "start",
    "self_training",
    "optim",
    "train",
    "ablation.time_factor",  # for budget time
    "ablation.changes",  # for variants
)


def inputs() -> None:
    """Record the code and the settings that each stage depends on.

    Each stage of a cell depends on one file, which keeps dvc.lock from listing all of it for every
    cell. Training has one file per method, so editing a method does not retrain the others.

    Example: python -m pipeline inputs
    """
    from semimae.data.store import resolve_root

    params = Params.read()
    root = Path()  # this workspace, where the files are written too
    check_weights(params, resolve_root(params.data.root, root))
    values = params.model_dump(mode="json")
    _write(INPUTS / "prepare.json", stage_code("prepare"))
    settings: dict[str, object] = {key: reduce(getitem, key.split("."), values) for key in OF_SPLIT}
    settings["sha256 of data.labeled_list"] = hash_labeled_list(params, root)
    _write(INPUTS / "split.json", stage_code("split", options=True), settings)
    # A variant may use another pseudo-label rule, which lives in another file.
    variants = params.variants().values()
    for name in METHODS:
        code = training_code(each.options(name) for each in variants)
        _write(INPUTS / "train" / f"{name}.json", code)
    probe = {"linear_probe": values["linear_probe"]}
    _write(INPUTS / "linear_probe.json", stage_code("linear_probe"), probe)
    tune = {"fine_tune": values["fine_tune"]}
    _write(INPUTS / "fine_tune.json", fine_tuning_code(), tune)


def _write(
    path: Path, code: Mapping[str, str], settings: Mapping[str, object] | None = None
) -> None:
    write_json(path, {"settings": settings or {}, "code": dict(sorted(code.items()))})
