"""params.yaml as one frozen tree, and the cells that it describes."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from pydantic import Field, ValidationError

from semimae.options.backbone import BackboneConfig
from semimae.options.cell import Cell, Dataset
from semimae.options.data import CellData, DataConfig
from semimae.options.evaluation import FineTuneConfig, LinearProbeConfig
from semimae.options.explain import explain, near, telling
from semimae.options.grid import (
    BUDGETS,
    PLAIN,
    AblationConfig,
    Budget,
    GridPoint,
    LabelFraction,
    MethodName,
    Seed,
)
from semimae.options.labeled import LabeledConfig
from semimae.options.method import METHODS, SSMAEConfig
from semimae.options.method_base import MethodOptions, values_of
from semimae.options.mim import Masked, MaskRatio, MIMConfig
from semimae.options.params_file import parse_yaml, read_bytes
from semimae.options.phase import READ_BY_PHASE, own_settings
from semimae.options.pseudo_label import PseudoLabelConfig
from semimae.options.self_training import SelfTrainingConfig
from semimae.options.start import StartConfig
from semimae.options.tracking import TrackingConfig
from semimae.options.train import CellTrain, OptimConfig, TrainConfig
from semimae.types import Frozen, UserError

LARGEST_GRID = 10_000  # cells; each is a DVC stage


class Params(Frozen):
    """All of params.yaml. Every field is required there."""

    dataset: Dataset = Field(description="The images.")
    method: MethodName = Field(description="The learning method.")
    mask_ratio: MaskRatio = Field(description="Fraction of the patches that the MIM branch hides.")
    label_fraction: LabelFraction | None = Field(
        description="Fraction of the labeled training images whose labels are used."
    )
    num_labels: int | None = Field(
        ge=1, description="Number of labels to use, instead of a fraction."
    )
    seed: Seed = Field(description="Seed of all randomness.")
    refit: bool = Field(
        description="After the training that holds validation images out, or after those of "
        "data.folds, train once more on all labels, which gives the final model. Without "
        "data.folds, only the headline is trained again."
    )
    data: DataConfig
    labeled: LabeledConfig
    backbone: BackboneConfig
    mim: MIMConfig
    pseudo_label: PseudoLabelConfig
    ssmae: SSMAEConfig
    start: StartConfig
    self_training: SelfTrainingConfig
    optim: OptimConfig
    train: TrainConfig
    linear_probe: LinearProbeConfig
    fine_tune: FineTuneConfig
    ablation: AblationConfig
    tracking: TrackingConfig

    @classmethod
    def read(cls, path: Path = Path("params.yaml")) -> Self:
        """Read and check a params.yaml (YAML 1.2: ``1e-2`` is a number, duplicate keys are errors).

        Raises:
            UserError: With one line that says which key is wrong, what arrived, what is allowed.
        """
        return cls.parse(read_bytes(path), path)

    @classmethod
    def parse(cls, content: bytes | str, path: Path) -> Self:
        """Check the content of a params file. Messages refer to it as ``path``.

        Raises:
            UserError: With one line that says which key is wrong, what arrived, what is allowed.
        """
        tree = parse_yaml(content, path)
        try:
            params = cls.model_validate(tree)
            params.cell()
            params.grid()
        except ValidationError as error:
            raise UserError(f"{path}: {explain(cls, telling(error.errors()))}") from None
        return params

    def cell(
        self,
        method: str | None = None,
        mask_ratio: float | None = None,
        label_fraction: float | None = None,
        seed: int | None = None,
        budget: Budget = "images",
    ) -> Cell:
        """Return the headline cell; given a method, the cell of the grid with these values.

        With budget "time", the steps of all its phases are multiplied by the method's time factor.

        Raises:
            UserError: If the values are inconsistent.
        """
        is_headline = method is None
        method = self.method if method is None else method
        if method not in METHODS:
            raise UserError(f"method={method} is unknown; choose one of {', '.join(METHODS)}")
        factor = self.ablation.time_factor.get(method) if budget == "time" else 1.0
        if factor is None:
            raise UserError(f"ablation.time_factor has no {method}, which budget time needs.")
        train = self._train(factor)
        refit = self.refit and (is_headline or self.data.folds > 0)
        by_fraction = label_fraction is not None  # it then overrides all other choices
        data = self.data.model_copy(update={"labeled_list": None}) if by_fraction else self.data
        try:
            options = self.options(method, mask_ratio, factor)
            asked = SimpleNamespace(
                dataset=self.dataset,
                options=options,
                label_fraction=label_fraction if by_fraction else self.label_fraction,
                num_labels=None if by_fraction else self.num_labels,
                seed=self.seed if seed is None else seed,
                refit=refit,
                data=values_of(data),
                backbone=self.backbone.without_unread(options.tunings),
                optim=self.optim,
                train=values_of(train),
                weights_sha256=None,
            )
            return Cell.model_validate(asked, from_attributes=True)  # picks each section's own keys
        except ValidationError as error:
            raise UserError(explain(Cell, error.errors()[0])) from None

    def options(
        self, method: str, mask_ratio: float | None = None, factor: float = 1.0
    ) -> MethodOptions:
        """Return the options of a method, without checking that its phases fit the rest.

        Args:
            method: A key of ``METHODS``.
            mask_ratio: The mask ratio, if not the headline's.
            factor: Factor for the steps of all phases.
        """
        ratio = self.mask_ratio if mask_ratio is None else mask_ratio
        teacher = _times(self.self_training.teacher_steps, factor)
        sections = {
            "labeled": self.labeled,
            "data": CellData.model_validate(values_of(self.data), from_attributes=True),
            "optim": self.optim,
            "train": CellTrain.model_validate(values_of(self.train), from_attributes=True),
        }
        start: dict[str, Any] = {}
        for name in READ_BY_PHASE:
            steps = _times(getattr(self.start, f"{name}_steps"), factor)
            own = own_settings(name, getattr(self.start, name), sections)
            start |= {f"{name}_steps": steps, name: own if steps else {}}
        return METHODS[method].from_sections(
            {
                "labeled": self.labeled,
                "mim": Masked(mask_ratio=ratio, branch=self.mim),
                "pseudo_label": self.pseudo_label,
                "ssmae": self.ssmae,
                "start": self.start.model_copy(update=start),
                "self_training": self.self_training.model_copy(update={"teacher_steps": teacher}),
                "train": self._train(factor),
            }
        )

    def _train(self, factor: float) -> TrainConfig:
        return self.train.model_copy(update={"steps": _times(self.train.steps, factor)})

    def variant(self, name: str) -> Self:
        """Return the params with the changes of a variant.

        A section whose ``name`` changes is replaced as a whole, because it has other fields then.

        Raises:
            UserError: If there is no such variant, or its values are not allowed.
        """
        if name == PLAIN:
            return self
        if name not in self.ablation.changes:
            raise UserError(f"ablation.changes has no {name}{near(name, self.ablation.changes)}.")
        tree = self.model_dump()
        for section, fields in self.ablation.changes[name].items():
            before = tree[section]
            is_other = fields.get("name", before.get("name")) != before.get("name")
            tree[section] = fields if is_other else before | fields
        try:
            return type(self).model_validate(tree)
        except ValidationError as error:
            words = explain(type(self), telling(error.errors()))
            raise UserError(f"ablation.changes.{name}: {words}") from None

    def variants(self) -> dict[str, Self]:
        """Return the params of each variant of the grid and its baselines, by name."""
        names = (*self.ablation.variant, *self.ablation.baseline.variant)
        return {name: self.variant(name) for name in names}

    def grid(self, budget: Budget | None = None) -> dict[Cell, list[GridPoint]]:
        """Return the cells of the ablation, each with the points of the grid that it belongs to.

        Both are in the order of the lists, baselines last. With a ``budget``, only its cells are
        returned.

        Raises:
            UserError: If there are too many cells, or one of them is inconsistent.
        """
        a = self.ablation
        budgets = [b for b in a.budget if budget in (None, b)]
        equal_steps = [b for b in budgets if b == BUDGETS[0]]
        products: list[tuple[Sequence[Any], ...]] = [
            (a.method, a.mask_ratio, a.label_fraction, a.seed, budgets, a.variant),
            (
                *(a.baseline.method, a.mask_ratio[:1], a.label_fraction, a.seed, equal_steps),
                a.baseline.variant,
            ),
        ]
        count = sum(math.prod(len(values) for values in lists) for lists in products)
        if count > LARGEST_GRID:
            raise UserError(
                f"ablation has {count} combinations; allowed: up to {LARGEST_GRID}; shorten its "
                "lists"
            )
        changed = self.variants()
        cells: dict[str, tuple[Cell, list[GridPoint]]] = {}
        points = itertools.chain.from_iterable(itertools.product(*lists) for lists in products)
        for point in itertools.starmap(GridPoint, points):
            try:
                cell = changed[point.variant].cell(*point[:-1])
            except UserError as error:
                where = "" if point.variant == PLAIN else f"ablation.changes.{point.variant}: "
                raise UserError(f"{where}{error}") from None
            cells.setdefault(cell.model_dump_json(), (cell, []))[1].append(point)
        return dict(cells.values())


def _times(steps: int, factor: float) -> int:
    return max(1, round(steps * factor)) if steps else 0
