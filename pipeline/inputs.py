"""Stage ``inputs``: what of the code and of params.yaml each stage of a cell depends on."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.source_code import fine_tuning_code, stage_code, training_code
from pipeline.workspace import INPUTS, write_json
from semimae.options.method import METHODS, MethodOptions
from semimae.options.params import Params
from semimae.types import UserError

# Keys of params.yaml that decide config.json and split.json. The headline's split also depends on
# method, mask_ratio, label_fraction, num_labels and seed.
OF_SPLIT = (
    "dataset",
    "label_fraction",  # of these two, for null in the grid
    "num_labels",
    "data",
    "backbone",
    "mim",
    "pseudo_label",
    "ssmae",
    "start",
    "optim",
    "train",
    "ablation.time_factor",  # for budget time
    "ablation.changes",  # for variants
)


def inputs() -> None:
    """Write files that hold the code and the settings that the stages of a cell depend on.

    Each stage of a cell depends on its file, so that dvc.lock does not repeat them for every cell.
    Training has a file per method: an edit of one method trains no other method again.

    Example: python -m pipeline inputs
    """
    params = Params.read()
    values = params.model_dump(mode="json")
    _write(INPUTS / "prepare.json", stage_code("prepare"))
    settings = {key: _value(values, key) for key in OF_SPLIT}
    _write(INPUTS / "split.json", stage_code("split", options=True), settings)
    for name, methods in _as_asked(params).items():
        _write(INPUTS / "train" / f"{name}.json", training_code(methods))
    probe = {"linear_probe": values["linear_probe"]}
    _write(INPUTS / "linear_probe.json", stage_code("linear_probe"), probe)
    tune = {"fine_tune": values["fine_tune"]}
    _write(INPUTS / "fine_tune.json", fine_tuning_code(), tune)


def _as_asked(params: Params) -> dict[str, list[MethodOptions]]:
    """Return each method as the headline, the grid and its variants may ask for it.

    Variants may take another rule for pseudo labels, which is another file. A method that these
    settings cannot train, such as one with a MIM branch on a convolutional network, has none.
    """
    a = params.ablation
    variants = [params.variant(name) for name in (*a.variant, *a.baseline.variant)]
    found: dict[str, list[MethodOptions]] = {name: [] for name in METHODS}
    for name, options in found.items():
        for variant in variants:
            with contextlib.suppress(UserError):
                options.append(variant.cell(name).options)
    return found


def _write(
    path: Path, code: Mapping[str, str], settings: Mapping[str, object] | None = None
) -> None:
    write_json(path, {"settings": settings or {}, "code": dict(sorted(code.items()))})


def _value(tree: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(tree, dict)
        tree = tree[part]
    return tree
