"""Stage ``inputs``: what of the code and of params.yaml each stage of a cell depends on."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.workspace import INPUTS, write_json
from semimae.data.files import file_hash
from semimae.params import Params


class Inputs(NamedTuple):
    """What a stage depends on beside the files of its cell."""

    code: tuple[str, ...]  # files and folders
    settings: tuple[str, ...] = ()  # keys of params.yaml


STAGES = {
    # The headline's split also depends on method, mask_ratio, label_fraction, num_labels and seed.
    "split": Inputs(
        code=(
            "pipeline/split.py",
            "semimae/backbones/config.py",
            "semimae/cell.py",
            "semimae/data",
            "semimae/distributed.py",
            "semimae/engine/config.py",
            "semimae/evaluation/config.py",
            "semimae/explain.py",
            "semimae/grid.py",
            "semimae/methods/config.py",
            "semimae/mim/config.py",
            "semimae/params.py",
            "semimae/types.py",
        ),
        settings=(
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
        ),
    ),
    # Neither pipeline/ nor the evaluation: an edit there must not train for days again.
    "train": Inputs(
        code=(
            "semimae/backbones",
            "semimae/cell.py",
            "semimae/data",
            "semimae/distributed.py",
            "semimae/engine",
            "semimae/losses.py",
            "semimae/methods",
            "semimae/mim",
            "semimae/model.py",
            "semimae/patches.py",
            "semimae/positions.py",
            "semimae/random.py",
            "semimae/types.py",
        )
    ),
    "linear_probe": Inputs(code=("semimae",), settings=("linear_probe",)),
    "fine_tune": Inputs(code=("semimae",), settings=("fine_tune",)),
}


def inputs() -> None:
    """Write a file per stage that holds the code and the settings that it depends on.

    Each stage of a cell depends on its file, so that dvc.lock does not repeat them for every cell.

    Example: python -m pipeline inputs
    """
    params = Params.read().model_dump(mode="json")
    for name, wanted in STAGES.items():
        settings = {key: _value(params, key) for key in wanted.settings}
        code = dict(_fingerprints(wanted.code))
        write_json(INPUTS / f"{name}.json", {"settings": settings, "code": code})


def _value(tree: object, key: str) -> object:
    for part in key.split("."):
        assert isinstance(tree, dict)
        tree = tree[part]
    return tree


def _fingerprints(code: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for entry in map(Path, code):
        for path in [entry] if entry.is_file() else sorted(entry.rglob("*.py")):
            yield path.as_posix(), file_hash(path)
