"""params.yaml as one frozen tree, and the cells that it asks for."""

import difflib
import itertools
import math
import reprlib
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from semimae.backbones.config import BackboneConfig
from semimae.cell import Cell, Dataset
from semimae.data.config import DataConfig
from semimae.engine.config import OptimConfig, TrainConfig
from semimae.evaluation.config import FineTuneConfig, LinearProbeConfig
from semimae.methods.config import METHOD_SECTIONS, PseudoLabelConfig, SSMAEConfig, StartConfig
from semimae.mim.config import MIMConfig
from semimae.types import Frozen, UserError

MethodName = Annotated[str, Field(json_schema_extra={"enum": list(METHOD_SECTIONS)})]
MaskRatio = Annotated[float, Field(gt=0, lt=1)]
LabelFraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LARGEST_GRID = 10_000  # cells; each is a stage of DVC
_LARGEST_FILE = 2**18  # bytes; a params.yaml has some thousand

_short = reprlib.Repr()  # of nested aliases a whole repr would fill the memory
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 2, 120, 120, 60


class AblationConfig(Frozen):
    """The grid: every combination is trained and scored."""

    method: list[MethodName] = Field(min_length=1, description="Methods of the grid.")
    mask_ratio: list[MaskRatio] = Field(min_length=1, description="Mask ratios of the grid.")
    label_fraction: list[LabelFraction | None] = Field(
        min_length=1, description="Label fractions; null: the labels of the headline."
    )
    seed: list[Seed] = Field(min_length=1, description="Seeds; intervals are over these.")


class TrackingConfig(Frozen):
    """Where MLflow's runs go."""

    experiment: str = Field(min_length=1, max_length=250, description="Name of the experiment.")


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
    ) -> Cell:
        """Return the headline cell, or the one in which the given values replace its own.

        Raises:
            UserError: If the values do not fit together.
        """
        method = self.method if method is None else method
        sections = METHOD_SECTIONS.get(method, frozenset())
        optional = {
            section: getattr(self, section) if section in sections else None
            for section in ("mim", "pseudo_label", "ssmae", "start")
        }
        chosen_ratio = self.mask_ratio if mask_ratio is None else mask_ratio
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
                train=self.train,
                **optional,
            )
        except ValidationError as error:
            raise UserError(explain(Cell, error.errors()[0])) from None

    def grid(self) -> list[Cell]:
        """Return the cells of the ablation, without repetition, in the order of the lists.

        Raises:
            UserError: If they are too many, or one of them does not fit together.
        """
        a = self.ablation
        lists = (a.method, a.mask_ratio, a.label_fraction, a.seed)
        count = math.prod(len(values) for values in lists)
        if count > LARGEST_GRID:
            raise UserError(
                f"ablation asks for {count} cells; allowed: up to {LARGEST_GRID}; shorten its lists"
            )
        cells = (self.cell(*values) for values in itertools.product(*lists))
        return list({cell.model_dump_json(): cell for cell in cells}.values())


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
        tree = YAML(typ="safe").load(content)
    except Exception as error:  # odd tags and dates lead ruamel.yaml to errors of any kind
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not valid YAML: {reason[:500]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__}; it must hold keys and values.")
    return tree


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say in one line what is wrong: the key, what arrived, what is allowed."""
    keys, section = _follow(model, error["loc"])
    key = ".".join(keys) or "params"
    if error["type"] == "extra_forbidden":
        unknown, fields = str(error["loc"][-1])[:80], section.model_fields
        near = difflib.get_close_matches(unknown, fields, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        of = f" of {'.'.join([*keys, 'name'])}: {_tag(section)}" if _tag(section) else ""
        return f"{'.'.join([*keys, unknown])}: unknown key{of}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing; every field must be stated"
    if error["type"] == "union_tag_not_found":
        return f"{key}.name: missing; every field must be stated"
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        tag = str(context["tag"])[:80]
        return f"{key}.name: got '{tag}'; it must be one of {context['expected_tags']}"
    if error["type"] == "value_error":  # of a section's validator: begins with one of its keys
        return ".".join([*keys, str(error["ctx"]["error"])])
    message = error["msg"].replace("Input should be", "it must be")
    return f"{key}: got {_short.repr(error['input'])}; {message}"


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Follow an error's location to the keys as they stand in the file and the last section.

    Pydantic also names the members of unions on the way, which the file does not.
    """
    keys: list[str] = []
    section, options = model, [model]
    for part in location:
        holders = [option for option in options if part in option.model_fields]
        tagged = [option for option in options if _tag(option) == part]
        if holders:
            section = holders[0]
            options = _models(section.model_fields[str(part)].annotation)
            keys.append(str(part))
        elif tagged:
            section, options = tagged[0], tagged
        elif isinstance(part, int):
            keys.append(str(part))
    return keys, options[0] if options else section


def _tag(model: Any) -> str | None:
    """Return the value of ``name`` that tells a model from the others of its union."""
    field = getattr(model, "model_fields", {}).get("name")
    values = get_args(field.annotation) if field else ()
    return values[0] if values else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation, which may be a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
