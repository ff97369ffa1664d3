"""The grid: the section ``ablation`` of params.yaml, and its points."""

import re
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from semimae.options.data import READ_BY_PREPARE, CellData, DataConfig
from semimae.options.explain import near
from semimae.options.method import METHODS
from semimae.options.mim import MaskRatio
from semimae.options.train import CellTrain, TrainConfig
from semimae.types import Frozen

MethodName = Annotated[str, Field(json_schema_extra={"enum": list(METHODS)})]
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
_VARIED = (
    *("data", "backbone", "labeled", "mim", "pseudo_label", "ssmae", "start", "self_training"),
    *("optim", "train"),
)
# Keys that are not part of a cell, because they do not affect the weights. A run can continue after
# they change.
FREE = frozenset(
    f"{section}.{key}"
    for section, whole, part in (("data", DataConfig, CellData), ("train", TrainConfig, CellTrain))
    for key in whole.model_fields.keys() - part.model_fields.keys()
)
_SHARED = {  # fields that a variant must not change
    **dict.fromkeys(FREE, "it does not affect the weights"),
    **{f"data.{name}": "`prepare` reads it once, for all settings" for name in READ_BY_PREPARE},
    "data.val_fraction": "settings are compared on the same validation images",
    "data.folds": "settings are compared on the same validation images",
    "data.labeled_list": "use ablation.label_fraction to vary the labels",
    "train.steps": "settings are compared at equal steps",
}


class BaselineConfig(Frozen):
    """What the grid is compared with: each of these methods in each of these variants."""

    method: list[MethodName] = Field(min_length=1, description="Methods of the baselines.")
    variant: list[str] = Field(
        description="Variants of the baselines: names from changes that are not in "
        "ablation.variant. []: no baselines."
    )


class AblationConfig(Frozen):
    """The grid. Every combination is trained and evaluated."""

    method: list[MethodName] = Field(min_length=1, description="Methods of the grid.")
    mask_ratio: list[MaskRatio] = Field(min_length=1, description="Mask ratios of the grid.")
    label_fraction: list[LabelFraction | None] = Field(
        min_length=1, description="Label fractions. null: the labels of the headline."
    )
    seed: list[Seed] = Field(
        min_length=1, description="Seeds. Confidence intervals are computed over them."
    )
    budget: list[Budget] = Field(
        min_length=1,
        description="images: all methods train for train.steps. time: they also train for the "
        "same time, using time_factor. images is required.",
    )
    time_factor: dict[MethodName, Annotated[float, Field(gt=0, le=1000)]] = Field(
        description="For budget time: each method's steps as a multiple of train.steps. "
        "`python -m pipeline time-factors` measures them."
    )
    variant: list[str] = Field(
        min_length=1,
        description="Variants of the grid, plain first. The others are defined in changes.",
    )
    changes: dict[str, Any] = Field(
        description="The values that a variant sets: NAME: {SECTION: {FIELD: VALUE}}, such as "
        "heavy: {mim: {lambda_mim: 10}}."
    )
    baseline: BaselineConfig

    @model_validator(mode="after")
    def _factors_are_there(self) -> Self:
        if "images" not in self.budget:
            raise ValueError("budget must include images; write [images] or [images, time]")
        for name in self.time_factor:
            if name not in METHODS:
                hint = near(name, METHODS)
                raise ValueError(f"time_factor.{name}: unknown key{hint}; keys are method names")
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
            raise ValueError(f"changes lacks {', '.join(lacking)}, which variant lists")
        for name in self.baseline.variant:
            if name in self.variant:
                raise ValueError(f"baseline.variant and variant both have {name}; remove one")
            if name not in self.changes:
                hint = near(name, self.changes)
                raise ValueError(f"changes lacks {name}, which baseline.variant lists{hint}")
        if len(self.variant) > 1 and "time" in self.budget:
            raise ValueError(
                "budget time does not work with variants, because time_factor is measured for "
                "plain only; write budget: [images] or variant: [plain]"
            )
        for name, sections in self.changes.items():
            _check_change(name, sections, is_setting=name in self.variant)
        return self


def _check_change(name: str, sections: object, *, is_setting: bool) -> None:
    """Check the name and form of a variant, and that it does not change what all settings share.

    A baseline may train for another number of steps: equal time is a fairer comparison.

    Raises:
        ValueError: If a check fails.
    """
    key = f"changes.{name[:80]}"
    if not _VARIANT_NAME.fullmatch(name) or name in BUDGETS:
        raise ValueError(
            f"{key}: the name of a variant has up to 32 lowercase letters, digits and _, starts "
            f"with a letter, and is not {' or '.join(BUDGETS)}"
        )
    for section, fields in sections.items() if isinstance(sections, dict) else [("", None)]:
        if section and section not in _VARIED:
            hint = near(section, _VARIED)
            raise ValueError(f"{key}.{section}: allowed sections: {', '.join(_VARIED)}{hint}")
        if not isinstance(fields, dict):
            raise ValueError(f"{key} must have the form {{SECTION: {{FIELD: VALUE}}}}")
        for field in fields:
            if (section, field) == ("train", "steps") and not is_setting:
                continue
            if reason := _SHARED.get(f"{section}.{field}"):
                raise ValueError(f"{key}.{section}.{field} is not allowed: {reason}")


class GridPoint(NamedTuple):
    """One combination of the grid's or the baselines' lists, as in the matrices of dvc.yaml."""

    method: str
    mask_ratio: float
    label_fraction: float | None
    seed: int
    budget: Budget
    variant: str

    @property
    def folder(self) -> str:
        """The name of its folder in runs/."""
        return "-".join(map(str, self))

    @property
    def note(self) -> str:
        """A suffix for the name of its cell: an unusual budget or variant, or nothing."""
        unusual = [part for part in (self.budget, self.variant) if part not in {BUDGETS[0], PLAIN}]
        return "".join(f" {part}" for part in unusual)

    @classmethod
    def parse(cls, folder: str) -> "GridPoint | None":
        """Return the point of a folder that DVC named, or None for any other folder."""
        found = _FOLDER.fullmatch(folder)
        if found is None:
            return None
        method, ratio, fraction, seed, budget, variant = found.groups()
        assert budget in BUDGETS
        labels = None if fraction == "None" else float(fraction)
        return cls(method, float(ratio), labels, int(seed), budget, variant)
