"""What the tests of several folders build on."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.options.method import METHODS
from semimae.options.params import Params
from semimae.options.train import Rhythm
from semimae.types import Batch, PseudoLabels

REPO = Path(__file__).parents[1]
PROPERTY = "generated cases"  # under which a test says how many it ran
# Seconds after which a test gives up on what should long have happened. It only ends a test of what
# is broken: no test may pass or fail by the speed of the machine.
PATIENCE = 900.0

# Over params.yaml: as small as it can be while every option still has an effect.
SMALL = {
    "dataset": "digits",
    "mask_ratio": 0.75,
    "label_fraction": None,
    "num_labels": 40,
    "data__image_size": 8,
    "data__channels": 1,
    "backbone__patch_size": 2,
    "backbone__embed_dim": 16,
    "backbone__depth": 2,
    "backbone__num_heads": 2,
    "mim__decoder_dim": 8,
    "mim__decoder_heads": 2,
    "optim__warmup_steps": 1,
    "fine_tune__optim__warmup_steps": 0,
    "train__steps": 8,
    "train__batch_size": 4,
    "train__mu": 2,
    "train__eval_every": 3,
    "train__log_every": 2,
    "train__save_every": 3,
    "train__device": "cpu",
    "train__precision": "fp32",
    "train__threads": 1,
}
# Everything that regularizes, at once.
REGULARIZED = {
    "data__crop": "resized",
    "data__hflip": True,
    "data__color_jitter": 0.4,
    "data__randaugment_magnitude": 27,
    "data__randaugment_magnitude_std": 1.5,
    "data__randaugment_probability": 0.5,
    "data__erasing": 0.25,
    "data__erasing_fill": "noise",
    "labeled__view": "strong",
    "labeled__mixup": 0.8,
    "labeled__cutmix": 1.0,
    "labeled__smoothing": 0.1,
}


@cache
def _params_yaml() -> Params:
    return Params.read(REPO / "params.yaml")


def changed_params(**changes: object) -> Params:
    """Return params.yaml with ``SMALL`` and the changes applied; keys are ``section__field``."""
    tree: dict[str, Any] = _params_yaml().model_dump()
    _change(tree, SMALL | changes)
    return Params.model_validate(tree)


def set_params(project: Path, **changes: object) -> None:
    """Change the params.yaml of a project; keys are ``section__field``."""
    yaml, path = YAML(), project / "params.yaml"
    tree = yaml.load(path)
    _change(tree, changes)
    yaml.dump(tree, path)


def _change(tree: dict[str, Any], changes: Mapping[str, object]) -> None:
    for key, value in changes.items():
        *sections, name = key.split("__")
        node = tree
        for section in sections:
            node = node[section]
        assert name in node, key
        node[name] = value


def small_rhythm(**changes: object) -> Rhythm:
    """Return how often ``small_cell`` made with the same changes logs, saves and is evaluated."""
    return changed_params(**changes).train


def _last_phase(method: str) -> str:
    return changed_params(method=method).cell().options.phases()[-1].options.name


# Methods with a last phase of their own: mae_finetune ends with supervised training.
WITH_OWN_PHASE = [name for name in METHODS if _last_phase(name) == name]


def copy_project(folder: Path) -> None:
    """Copy the working tree, less its results and tests, into a folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("runs/", "reports/", "tests/")) or name == "dvc.lock":
            continue
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)


def wait_until(happens: Callable[[], bool], possible: Callable[[], bool] = lambda: True) -> None:
    """Wait until something happens, and fail at once where it no longer can."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert possible() or happens(), "it can no longer happen"
        assert time.monotonic() < deadline, f"it has not happened in {PATIENCE:.0f} s"
        time.sleep(0.01)


class Time:
    """Takes the place of the module ``time``: it passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def monotonic(self) -> float:
        return self.seconds

    perf_counter = process_time = monotonic

    def time_ns(self) -> int:
        return int(1e9 * self.seconds)


def section(name: str, /, **changes: object) -> Any:
    """Return one section of ``changed_params`` with its own fields changed."""
    changed = {f"{name}__{field}": value for field, value in changes.items()}
    return getattr(changed_params(**changed), name)


class StepOutput(NamedTuple):
    """What a method makes of a whole batch."""

    losses: dict[str, Tensor]
    metrics: Mapping[str, Tensor]
    pseudo: PseudoLabels | None


def step_of(method: Method, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
    """Label a whole batch and return its loss terms, as the training loop does."""
    inputs = method.label(model, teacher, batch)
    return StepOutput(method.losses(model, teacher, inputs), inputs.metrics, inputs.pseudo)


class Waits(TorchDispatchMode):
    """Counts the operations for which a host must wait for its device."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__.split(".")[0]
        by_mask = name in ("index", "index_put_") and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        if by_mask or any(name.startswith(waiting) for waiting in self.NAMES):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))
