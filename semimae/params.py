"""params.yaml as one frozen tree, and the cells that it asks for."""

import itertools
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML

from semimae.backbones.config import BackboneConfig
from semimae.cell import Cell, Dataset
from semimae.data.config import READ_BY_PREPARE, DataConfig
from semimae.engine.config import OptimConfig, TrainConfig
from semimae.evaluation.config import FineTuneConfig, LinearProbeConfig
from semimae.explain import explain, near
from semimae.methods.config import (
    METHOD_SECTIONS,
    RECONSTRUCTION_ALONE,
    PseudoLabelConfig,
    SSMAEConfig,
    StartConfig,
)
from semimae.mim.config import MIMConfig
from semimae.types import Frozen, UserError

MethodName = Annotated[str, Field(json_schema_extra={"enum": list(METHOD_SECTIONS)})]
MaskRatio = Annotated[float, Field(gt=0, lt=1)]
LabelFraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Budget = Literal["images", "time"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)
PLAIN = "plain"  # the variant that changes nothing
_VARIANT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")  # it is part of a folder's name
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_FOLDER = re.compile(
    rf"([a-z_]+)-({_NUMBER})-({_NUMBER}|None)-(\d+)-({'|'.join(BUDGETS)})-({_VARIANT_NAME.pattern})"
)
_VARIED = ("data", "backbone", "mim", "pseudo_label", "ssmae", "start", "optim", "train")
_SHARED = {  # fields of these sections that a variant must leave alone
    **{f"data.{name}": "`prepare` reads it, once for all settings" for name in READ_BY_PREPARE},
    "data.val_fraction": "settings are compared on the same validation images",
    "data.labeled_list": "the grid has a list for labels, label_fraction",
    "train.steps": "settings are compared at equal steps",
}
LARGEST_GRID = 10_000  # cells; each is a stage of DVC
_LARGEST_FILE = 2**18  # bytes; a params.yaml has some thousand


class AblationConfig(Frozen):
    """The grid: every combination is trained and scored."""

    method: list[MethodName] = Field(min_length=1, description="Methods of the grid.")
    mask_ratio: list[MaskRatio] = Field(min_length=1, description="Mask ratios of the grid.")
    label_fraction: list[LabelFraction | None] = Field(
        min_length=1, description="Label fractions; null: the labels of the headline."
    )
    seed: list[Seed] = Field(min_length=1, description="Seeds; intervals are over these.")
    budget: list[Budget] = Field(
        min_length=1,
        description="images: all methods train for train.steps; time: also for as long as each "
        "other, by time_factor. images must be among them.",
    )
    time_factor: dict[MethodName, Annotated[float, Field(gt=0, le=1000)]] = Field(
        description="For budget time: each method's steps, as multiples of train.steps; "
        "`python -m pipeline time-factors` measures them."
    )
    variant: list[str] = Field(
        min_length=1,
        description="Variants of the grid, plain first; changes says what the others are.",
    )
    changes: dict[str, Any] = Field(
        description="What a variant sets: NAME: {SECTION: {FIELD: VALUE}}, as in "
        "heavy: {mim: {lambda_mim: 10}}."
    )

    @model_validator(mode="after")
    def _factors_are_there(self) -> Self:
        if "images" not in self.budget:
            raise ValueError("budget lacks images; write [images] or [images, time]")
        for name in self.time_factor:
            if name not in METHOD_SECTIONS:
                hint = near(name, METHOD_SECTIONS)
                raise ValueError(f"time_factor.{name}: unknown key{hint}; it is no method")
        lacking = [m for m in self.method if "time" in self.budget and m not in self.time_factor]
        if lacking:
            raise ValueError(
                f"time_factor lacks {', '.join(lacking)}; budget time needs a factor for "
                "each method: run the grid with budget: [images], then "
                "`python -m pipeline time-factors`"
            )
        return self

    @model_validator(mode="after")
    def _changes_are_there(self) -> Self:
        if self.variant[0] != PLAIN:
            raise ValueError(f"variant begins with {self.variant[0]}; it must begin with {PLAIN}")
        if PLAIN in self.changes:
            raise ValueError(f"changes.{PLAIN} is not allowed: {PLAIN} changes nothing")
        lacking = [name for name in self.variant if name not in {PLAIN, *self.changes}]
        if lacking:
            raise ValueError(f"changes lacks {', '.join(lacking)}, which variant asks for")
        if len(self.variant) > 1 and "time" in self.budget:
            raise ValueError(
                "budget time is not for variants, since time_factor is measured of the plain one; "
                "write budget: [images] or variant: [plain]"
            )
        for name, sections in self.changes.items():
            _check_change(name, sections)
        return self


def _check_change(name: str, sections: object) -> None:
    """Check a variant's name and shape, and that it leaves alone what all settings share.

    Raises:
        ValueError: If not.
    """
    key = f"changes.{name[:80]}"
    if not _VARIANT_NAME.fullmatch(name) or name in BUDGETS:
        raise ValueError(
            f"{key}: a variant's name has up to 32 small letters, digits and _, a letter first, "
            f"and is not {' or '.join(BUDGETS)}"
        )
    for section, fields in sections.items() if isinstance(sections, dict) else [("", None)]:
        if section and section not in _VARIED:
            hint = near(section, _VARIED)
            raise ValueError(f"{key}.{section}: allowed sections: {', '.join(_VARIED)}{hint}")
        if not isinstance(fields, dict):
            raise ValueError(f"{key} must have the form {{SECTION: {{FIELD: VALUE}}}}")
        for field in fields:
            if reason := _SHARED.get(f"{section}.{field}"):
                raise ValueError(f"{key}.{section}.{field} is not allowed: {reason}")


class GridPoint(NamedTuple):
    """One combination of the grid's lists, in the order of the matrix in dvc.yaml."""

    method: str
    mask_ratio: float
    label_fraction: float | None
    seed: int
    budget: Budget
    variant: str

    @property
    def folder(self) -> str:
        """Its folder below runs/."""
        return "-".join(map(str, self))

    @property
    def note(self) -> str:
        """What it adds to the name of its cell: an unusual budget or variant, or nothing."""
        unusual = [part for part in (self.budget, self.variant) if part not in {BUDGETS[0], PLAIN}]
        return "".join(f" {part}" for part in unusual)

    @classmethod
    def parse(cls, folder: str) -> "GridPoint | None":
        """Return the point that DVC writes as the name of a folder; None if it is of none."""
        found = _FOLDER.fullmatch(folder)
        if found is None:
            return None
        method, ratio, fraction, seed, budget, variant = found.groups()
        assert budget in BUDGETS
        labels = None if fraction == "None" else float(fraction)
        return cls(method, float(ratio), labels, int(seed), budget, variant)


class TrackingConfig(Frozen):
    """What goes to MLflow, and where."""

    experiment: str = Field(
        min_length=1,
        max_length=250,
        description="Name of the experiment, and of the registered model.",
    )
    log_model: bool = Field(description="Whether the headline's model is logged and registered.")


class Params(Frozen):
    """The whole of params.yaml; every field is stated there."""

    dataset: Dataset = Field(description="Which images.")
    method: MethodName = Field(description="How the model learns.")
    mask_ratio: MaskRatio = Field(description="Share of the patches that the MIM branch hides.")
    label_fraction: LabelFraction | None = Field(
        description="Share of the labelled training images whose label is used."
    )
    num_labels: int | None = Field(ge=1, description="Their number, instead of the share.")
    seed: Seed = Field(description="Key of all randomness.")
    data: DataConfig
    backbone: BackboneConfig
    mim: MIMConfig
    pseudo_label: PseudoLabelConfig
    ssmae: SSMAEConfig
    start: StartConfig
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
            UserError: With one line that names the key, what arrived, and what is allowed.
        """
        tree = _read_yaml(path)
        try:
            params = cls.model_validate(tree)
            params.cell()
            params.grid()
        except ValidationError as error:
            raise UserError(f"{path}: {explain(cls, error.errors()[0])}") from None
        return params

    def cell(
        self,
        method: str | None = None,
        mask_ratio: float | None = None,
        label_fraction: float | None = None,
        seed: int | None = None,
        budget: Budget = "images",
    ) -> Cell:
        """Return the headline cell, or the one in which the given values replace its own.

        With budget "time" the steps of all its phases are multiplied by the method's time factor.

        Raises:
            UserError: If the values do not fit together.
        """
        method = self.method if method is None else method
        sections = METHOD_SECTIONS.get(method, frozenset())
        optional = {
            section: getattr(self, section) if section in sections else None
            for section in ("mim", "pseudo_label", "ssmae", "start")
        }
        if method in RECONSTRUCTION_ALONE:
            optional["mim"] = self.mim.model_copy(update={"lambda_mim": 1.0})
        chosen_ratio = self.mask_ratio if mask_ratio is None else mask_ratio
        factor = self.ablation.time_factor.get(method) if budget == "time" else 1.0
        if factor is None:
            raise UserError(f"ablation.time_factor has no {method}, which budget time needs.")
        train = self.train.model_copy(update={"steps": _times(self.train.steps, factor)})
        if optional["start"] is not None:
            update = {name: _times(n, factor) for name, n in self.start.model_dump().items()}
            optional["start"] = self.start.model_copy(update=update)
        by_fraction = label_fraction is not None  # it then takes the place of all other choices
        data = self.data.model_copy(update={"labeled_list": None}) if by_fraction else self.data
        try:
            return Cell(
                dataset=self.dataset,
                method=method,
                mask_ratio=chosen_ratio if "mim" in sections else None,
                label_fraction=label_fraction if by_fraction else self.label_fraction,
                num_labels=None if by_fraction else self.num_labels,
                seed=self.seed if seed is None else seed,
                data=data,
                backbone=self.backbone,
                optim=self.optim,
                train=train,
                **optional,
            )
        except ValidationError as error:
            raise UserError(explain(Cell, error.errors()[0])) from None

    def variant(self, name: str) -> Self:
        """Return the params with the changes of one of the grid's variants.

        A section whose ``name`` changes is replaced as a whole: it then has other fields.

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
            words = explain(type(self), error.errors()[0])
            raise UserError(f"ablation.changes.{name}: {words}") from None

    def grid(self, budget: Budget | None = None) -> dict[Cell, list[GridPoint]]:
        """Return the cells of the ablation, each with the points of the grid that ask for it.

        Both are in the order of the lists; with a ``budget``, those of that one alone.

        Raises:
            UserError: If they are too many, or one of them does not fit together.
        """
        a = self.ablation
        budgets = [b for b in a.budget if budget in (None, b)]
        lists = (a.method, a.mask_ratio, a.label_fraction, a.seed, budgets, a.variant)
        count = math.prod(len(values) for values in lists)
        if count > LARGEST_GRID:
            raise UserError(
                f"ablation asks for {count} cells; allowed: up to {LARGEST_GRID}; shorten its lists"
            )
        changed = {name: self.variant(name) for name in a.variant}
        cells: dict[str, tuple[Cell, list[GridPoint]]] = {}
        for point in itertools.starmap(GridPoint, itertools.product(*lists)):
            try:
                cell = changed[point.variant].cell(*point[:-1])
            except UserError as error:
                where = "" if point.variant == PLAIN else f"ablation.changes.{point.variant}: "
                raise UserError(f"{where}{error}") from None
            cells.setdefault(cell.model_dump_json(), (cell, []))[1].append(point)
        return dict(cells.values())


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; `semimae recipe use digits` writes one.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if len(content) > _LARGEST_FILE:
        raise UserError(f"{path} is too long; allowed: up to {_LARGEST_FILE} bytes.")
    try:
        tree = YAML(typ="safe", pure=True).load(content)  # the same messages everywhere
    except Exception as error:  # odd tags and dates lead ruamel.yaml to errors of any kind
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not valid YAML: {reason[:500]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__}; it must hold keys and values.")
    return tree


def _times(steps: int, factor: float) -> int:
    return max(1, round(steps * factor)) if steps else 0
