"""All that a report is made of, read from the stage files."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.reporting.blocks import count
from pipeline.reporting.origin import MLflowRun, Origin, read_mlflow_run, read_origin
from pipeline.workspace import (
    HEADLINE,
    PREDICTIONS,
    PREPARED,
    RECONSTRUCTIONS,
    RUNS,
    grid_folders,
    read_json,
)
from semimae.data.store import INFO, DatasetInfo
from semimae.evaluation.metrics import Scores
from semimae.evaluation.mistakes import Mistake
from semimae.options.cell import Cell, cell_id
from semimae.options.grid import BUDGETS, PLAIN, GridPoint
from semimae.options.params import Params
from semimae.types import UserError

Row = dict[str, float]


@dataclass(frozen=True, eq=False)
class Result:
    """A cell that is trained and scored."""

    cell: Cell
    identity: str
    folders: tuple[Path, ...]  # all that hold this very cell; files are read from the first
    num_labeled: int
    num_unlabeled: int
    num_val: int
    scores: dict[str, Scores]  # by protocol
    pool: str  # of the features that the linear probe and k-NN see
    temperature: float | None  # that calibrates the probabilities
    history: list[Row]
    validation: list[Row]
    seconds: float  # of training, over all phases
    cpu_seconds: float  # the same, of the (first) process's processor time
    earlier_images: int  # of the phases before the last one
    origin: Origin
    mlflow: MLflowRun | None
    mistakes: list[Mistake]  # of the classifier, the surest first
    point: GridPoint | None = None  # of the grid; None: the headline

    @property
    def name(self) -> str:
        """A name for people: the cell's, with an unusual budget or variant."""
        return self.cell.name + (self.point.note if self.point else "")

    @property
    def variant(self) -> str:
        """The variant of the grid that it is the result of."""
        return self.point.variant if self.point else PLAIN

    @property
    def anchor(self) -> str:
        """Where the page lists this run."""
        return f"run-{self.identity}"

    @property
    def device_hours(self) -> float:
        """Processor time of all processes on a CPU, else time on all accelerators, in hours."""
        seconds = self.cpu_seconds if self.origin.device == "cpu" else self.seconds
        return seconds / 3600 * (self.origin.processes or 1)

    @property
    def labels(self) -> str:
        """How the labels were chosen, for people."""
        cell = self.cell
        if cell.label_fraction is not None:
            return f"{100 * cell.label_fraction:g}% of labels"
        names = cell.data.labeled_list
        return f"{count(self.num_labeled)} labels" + (f" of {Path(names).name}" if names else "")

    @property
    def val_top1(self) -> float:
        """Validation accuracy of the weights that are scored: the last ones."""
        return self.validation[-1]["val/top1"]

    @property
    def images_seen(self) -> int:
        """Labeled and unlabeled images of all steps, repetitions included."""
        return self.earlier_images + self.cell.train.steps * self.cell.images_per_step

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """What the classifier says of each validation and test image; see ``evaluation.probe``."""
        with np.load(self.folders[0] / PREDICTIONS) as file:
            return dict(file)

    def right(self, part: str) -> NDArray[np.bool_]:
        """Return which images of ``val`` or ``test`` the classifier gets right, ``[N]``."""
        right: NDArray[np.bool_] = (
            self.predictions[f"{part}_predicted"] == self.predictions[f"{part}_label"]
        )
        return right

    def last(self, key: str) -> float | None:
        """Return the last logged value of a metric, if the method logs it."""
        rows = self.validation if key.startswith("val/") else self.history
        return next((row[key] for row in reversed(rows) if key in row), None)

    @property
    def pictures(self) -> Path | None:
        """Reconstructions, where the method makes some."""
        path = self.folders[0] / RECONSTRUCTIONS
        return path if path.is_file() and self.cell.mim is not None else None


@dataclass(frozen=True, eq=False)
class Missing:
    """A cell that is asked for and has no scores."""

    cell: Cell
    name: str
    folder: str
    reason: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was asked for and what is there. A cell counts once, whatever folders hold it."""

    params: Params
    dataset: DatasetInfo | None
    grid: list[Result]  # all methods with the same steps
    baselines: list[Result]  # beside the grid: what it is held against
    timed: list[Result]  # all methods for the same time; empty unless ablation.budget asks for it
    headline: Result | None
    missing: list[Missing]

    @cached_property
    def results(self) -> list[Result]:
        """All cells, each once: the grid's, the baselines and the headline."""
        extra = [self.headline] if self.headline else []
        asked = [*self.grid, *self.baselines, *self.timed, *extra]
        by_identity = {result.identity: result for result in reversed(asked)}
        return sorted(by_identity.values(), key=asked.index)


def read_evidence(root: Path, params: Params) -> Evidence:
    """Read the runs that the params ask for; folders of anything else are ignored.

    Raises:
        UserError: If no run is finished.
    """
    info = root / PREPARED / INFO
    dataset = DatasetInfo.model_validate_json(info.read_bytes()) if info.is_file() else None
    asked = params.grid()
    there, headline_folder = grid_folders(root), root / RUNS / HEADLINE
    held = {folder: _cell_in(folder) for folder in (*there.values(), headline_folder)}

    def first_finished(cell: Cell, points: list[GridPoint]) -> Result | str:
        # Folders of an earlier grid may hold it too, but nothing keeps them up to date.
        folders = [*(there[point] for point in points if point in there), headline_folder]
        return _first_finished(cell, [f for f in folders if held[f] == cell], dataset)

    found = {cell: first_finished(cell, points) for cell, points in asked.items()}
    missing = [
        Missing(cell, cell.name + first.note, first.folder, reason)
        for cell, (first, *_) in asked.items()
        if isinstance(reason := found[cell], str)
    ]
    equal_steps, timed = (
        [
            replace(result, point=first)
            for cell, (first, *_) in params.grid(budget).items()
            if isinstance(result := found[cell], Result)
        ]
        for budget in BUDGETS
    )
    names = params.ablation.baseline.variant
    grid = [result for result in equal_steps if result.variant not in names]
    baselines = [result for result in equal_steps if result.variant in names]
    cell = params.cell()
    headline = first_finished(cell, [])
    if not isinstance(headline, Result):
        missing.insert(0, Missing(cell, f"headline: {cell.name}", HEADLINE, headline))
    if not equal_steps and not timed and not isinstance(headline, Result):
        raise UserError("runs/ holds no finished run that params.yaml asks for; run `dvc repro`.")
    finished = headline if isinstance(headline, Result) else None
    return Evidence(params, dataset, grid, baselines, timed, finished, missing)


def _cell_in(folder: Path) -> Cell | None:
    try:
        return Cell.read(folder / "config.json").as_asked
    except UserError:  # missing, or of another version
        return None


def _first_finished(cell: Cell, folders: list[Path], dataset: DatasetInfo | None) -> Result | str:
    """Return the cell's result from the first of its folders that has it, or why none has."""
    reason = "not started"
    for folder in folders:
        if not (folder / "split.json").is_file():
            reason = "no split"
        elif not (folder / "train" / "timing.json").is_file():
            reason = "not trained"
        elif not (folder / "linear_probe.json").is_file():
            reason = "trained, not scored"
        else:
            split = read_json(folder / "split.json")
            if dataset is not None and split["fingerprint"] != dataset.fingerprint:
                reason = "made from another version of the dataset"
                continue
            identity = cell_id(folder)
            same = [f for f in folders if (f / "split.json").is_file() and cell_id(f) == identity]
            try:
                return _read(cell, identity, (folder, *(f for f in same if f != folder)), split)
            except (KeyError, ValidationError, FileNotFoundError):
                reason = "scored by another version of the code"
    return reason


def _read(cell: Cell, identity: str, folders: tuple[Path, ...], split: dict[str, Any]) -> Result:
    folder, train = folders[0], folders[0] / "train"
    phases = read_json(train / "phases.json") if (train / "phases.json").is_file() else []
    probed = read_json(folder / "linear_probe.json")
    protocols = probed["protocols"]
    if (tuned := folder / "fine_tune.json").is_file():
        protocols |= read_json(tuned)["protocols"]
    timing = read_json(train / "timing.json")
    (folder / PREDICTIONS).stat()  # is read when it is needed

    def spent(clock: str) -> float:
        return float(sum(phase[clock] for phase in phases) + max(row[clock] for row in timing))

    return Result(
        cell=cell,
        identity=identity,
        folders=folders,
        num_labeled=len(split["labeled"]),
        num_unlabeled=split["num_unlabeled"],
        num_val=len(split["val"]),
        scores={name: Scores.model_validate(value) for name, value in protocols.items()},
        pool=probed["pool"],
        temperature=probed["temperature"],
        history=read_json(train / "history.json"),
        validation=read_json(train / "validation.json"),
        seconds=spent("seconds"),
        cpu_seconds=spent("cpu_seconds"),
        earlier_images=sum(phase["images"] for phase in phases),
        origin=read_origin(train),
        mlflow=read_mlflow_run(train, identity),
        mistakes=[Mistake.model_validate(mistake) for mistake in probed["mistakes"]],
    )
