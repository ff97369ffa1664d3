"""What a report is made of: runs, and which of them were asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SkipValidation

from pipeline.workspace import PREDICTIONS
from semimae.data.store import DatasetInfo
from semimae.evaluation.metrics import Example, Scores
from semimae.options.cell import Cell
from semimae.options.grid import BUDGETS, PLAIN, Budget
from semimae.options.params import Params
from semimae.types import Frozen

Row = dict[str, float]
Labels = float | None  # a label fraction; None: what the headline has instead
_NAMES = {
    "self_training": "Self-training",
    "fixmatch": "FixMatch",
    "flexmatch": "FlexMatch",
    "freematch": "FreeMatch",
    "mae": "MAE",
    "mae_finetune": "MAE, fine-tuned",
    "semi_mae": "Semi-MAE",
    "semi_vit": "Semi-ViT",
    "softmatch": "SoftMatch",
    "ssmae": "SSMAE",
}
# Of variants, where the setting is better known by another name.
_VARIANT_NAMES = {
    ("supervised", "small_cnn"): "Small CNN, labels alone",
    ("supervised", "large_cnn"): "Large CNN, labels alone",
    ("fixmatch", "small_cnn"): "Small CNN, FixMatch",
}


def method_name(method: str) -> str:
    """Return a method's name for people."""
    return _NAMES.get(method, method.replace("_", " ").capitalize())


class Origin(NamedTuple):
    """Code, machine and arithmetic of a training run; None where an earlier version ran it."""

    commit: str | None = None
    code: str | None = None
    torch: str | None = None
    device: str | None = None
    device_name: str | None = None
    processes: int | None = None
    threads: int | None = None
    flops: int | None = None  # None also where a model cannot be counted

    @property
    def machine(self) -> str:
        """The device for people."""
        if self.device is None:
            return "not recorded"
        if self.device_name is None:  # a kept table
            return self.device
        many, threads = f"{self.processes} x " if self.processes != 1 else "", ""
        if self.device == "cpu":
            threads = f", {self.threads} thread" + "s" * (self.threads != 1)
        return f"{many}{self.device} ({self.device_name}{threads})"


def _unlisted(default: Any = None) -> Any:
    """Return a field that is no column of ablation.csv."""
    return Field(default=default, exclude=True, repr=False)


class Run(Frozen):
    """A cell that is trained and scored: a row of ``ablation.csv``, by its columns."""

    method: str
    mask_ratio: float | None = None
    variant: str = PLAIN
    budget: Budget = "images"
    label_fraction: float | None = None
    num_labels: int | None = None
    num_labeled: int
    seed: int
    top1: float
    linear_probe: float
    knn: float
    ece: float
    nll: float
    val_top1: float  # of the weights that are scored: the last ones
    pseudo_accuracy_final: float | None = None
    pseudo_coverage_final: float | None = None
    val_pseudo_accuracy_final: float | None = None
    val_pseudo_coverage_final: float | None = None
    val_images: int | None = None
    folds: int = 0  # trainings that held these images out in turn; 0: they are held out of all
    steps: int
    seconds: float  # of training, over all phases
    cpu_seconds: float  # the same, of the (first) process's processor time
    images_seen: int  # labeled and unlabeled, of all steps and phases, repetitions included
    device: str | None = None
    device_hours: float  # processor time of all processes on a CPU, else time x accelerators
    flops: int | None = None
    commit: str | None = None
    mlflow_run: str | None = None
    cell_id: str
    folder: str
    # What only the stage files hold; of a kept table it is empty.
    folders: tuple[Path, ...] = _unlisted(())  # all that hold this very cell; the first is read
    cell: Cell | None = _unlisted()
    num_unlabeled: int | None = _unlisted()
    scores: dict[str, Scores] = _unlisted({})  # by protocol
    frozen: dict[str, Scores] = _unlisted({})  # the same of the starting weights, if it has any
    pool: str | None = _unlisted()  # of the features that the linear probe and k-NN see
    temperature: float | None = _unlisted()  # that calibrates the probabilities
    history: SkipValidation[list[Row]] = _unlisted([])
    validation: SkipValidation[list[Row]] = _unlisted([])
    origin: Origin = _unlisted(Origin())
    mlflow: str | None = _unlisted()  # address of the run's page, while MLflow's UI runs
    examples: list[Example] = _unlisted([])  # test images, worth a look

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """What the classifier says of each validation and test image; see ``evaluation.probe``."""
        with np.load(self.folders[0] / PREDICTIONS) as file:
            return dict(file)

    def right(self, part: str) -> NDArray[np.bool_]:
        """Return which images of ``val`` or ``test`` the classifier gets right, ``[N]``."""
        found = self.predictions
        right: NDArray[np.bool_] = found[f"{part}_predicted"] == found[f"{part}_label"]
        return right

    @property
    def name(self) -> str:
        """The cell's name, with an unusual budget or variant."""
        fraction, number = self.label_fraction, self.num_labels
        labels = f"f{fraction:g}" if fraction is not None else f"n{number or self.num_labeled}"
        ratio = () if self.mask_ratio is None else (f"m{self.mask_ratio:g}",)
        unusual = [part for part in (self.budget, self.variant) if part not in {BUDGETS[0], PLAIN}]
        return " ".join([self.method, *ratio, labels, f"s{self.seed}", *unusual])

    @property
    def setting(self) -> str:
        """What the run shares with other seeds and other numbers of labels, for people."""
        if own := _VARIANT_NAMES.get((self.method, self.variant)):
            return own
        ratio = "" if self.mask_ratio is None else f", mask {self.mask_ratio:g}"
        variant = "" if self.variant == PLAIN else f", {self.variant}"
        return method_name(self.method) + ratio + variant

    @property
    def labels(self) -> str:
        """How the labels were chosen."""
        if self.label_fraction is not None:
            return f"{100 * self.label_fraction:g}% of labels"
        names = self.cell.data.labeled_list if self.cell else None
        return f"{self.num_labeled:,} labels" + (f" of {Path(names).name}" if names else "")

    @property
    def short_labels(self) -> str:
        """The same with their number, short enough for a table and for the selector."""
        if self.label_fraction is None:
            return f"{self.num_labeled:,} labels"
        return f"{100 * self.label_fraction:g}% ({self.num_labeled:,})"

    @property
    def held_out(self) -> str:
        """The images that judge the run in training."""
        number = f"{self.val_images or 0:,}"
        if self.folds > 1:
            return f"{number} labeled images, each held out once in {self.folds} folds"
        return f"{number} validation image{'s' * (number != '1')}"


COLUMNS = [name for name, field in Run.model_fields.items() if not field.exclude]


class Missing(NamedTuple):
    """A cell that is asked for and has no scores."""

    cell: Cell
    name: str
    folder: str
    reason: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was asked for and what is there. A cell counts once, whatever folders hold it."""

    name: str  # of the dataset
    asked: tuple[str, float | None, float | None]  # of params.yaml: method, mask ratio, labels
    grid: list[Run]  # all methods with the same steps
    baselines: list[Run]  # beside the grid: what it is held against
    timed: list[Run]  # all methods for the same time; empty unless ablation.budget asks for it
    headline: Run | None = None
    missing: tuple[Missing, ...] = ()
    params: Params | None = None  # None: a kept table
    dataset: DatasetInfo | None = None

    @cached_property
    def runs(self) -> list[Run]:
        """All cells, each once: the grid's, the baselines and the headline."""
        asked = [*self.grid, *self.baselines, *self.timed, *filter(None, [self.headline])]
        return list({run.cell_id: run for run in reversed(asked)}.values())[::-1]
