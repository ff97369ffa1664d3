"""What a phase before the last one has of its own, where all else is the run's."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from semimae.options.data import CellData
from semimae.options.explain import explain, near
from semimae.options.labeled import LabeledConfig
from semimae.options.train import CellTrain, OptimConfig
from semimae.types import Frozen, UserError

# {SECTION: {FIELD: VALUE}}, as in ablation.changes. A field that is left out is the run's own, so
# null stays a value of its own: optim.grad_clip: null does not clip.
OwnSettings = Annotated[dict[str, dict[str, Any]], Field(strict=False)]
AnySection = TypeVar("AnySection", bound=Frozen)

_WEAK_VIEW = frozenset({"crop", "crop_padding", "crop_min_scale", "hflip", "color_jitter"})
_STRONG_VIEW = frozenset(
    name for name in CellData.model_fields if name.startswith(("randaugment_", "cutout", "erasing"))
)
_BATCH = frozenset({"batch_size", "accumulate", "ema_decay", "ema_warmup"})
_SECTIONS: Mapping[str, type[Frozen]] = {
    "data": CellData,
    "labeled": LabeledConfig,
    "optim": OptimConfig,
    "train": CellTrain,
}
# What each phase reads; the keys are those of the section `start`.
READ_BY_PHASE: Mapping[str, Mapping[str, frozenset[str]]] = {
    "mae": {
        "data": _WEAK_VIEW,
        "optim": frozenset(OptimConfig.model_fields),
        "train": _BATCH | {"mu"},
    },
    "supervised": {
        "data": _WEAK_VIEW | _STRONG_VIEW,
        "labeled": frozenset(LabeledConfig.model_fields),
        "optim": frozenset(OptimConfig.model_fields),
        "train": _BATCH | {"drop_path"},
    },
}


def own_settings(phase: str, given: OwnSettings, run: Mapping[str, Frozen]) -> OwnSettings:
    """Check what a phase has of its own, and return the part that differs from the run.

    Equal phases are therefore stated equally, and a phase without settings of its own is stated
    as if it could not have any.

    Args:
        phase: A key of ``READ_BY_PHASE``.
        given: Fields by section.
        run: The sections of the run.

    Raises:
        UserError: If the phase does not read a field, or its value is not allowed.
    """
    differ: OwnSettings = {}
    for section, readable in READ_BY_PHASE[phase].items():
        fields = given.get(section, {})
        if unknown := fields.keys() - readable:
            raise UserError(_not_read(f"start.{phase}.{section}", min(unknown), readable))
        try:
            merged = changed(run[section], fields).model_dump(mode="json")
        except ValidationError as error:
            words = explain(_SECTIONS[section], error.errors()[0])
            raise UserError(f"start.{phase}.{section}.{words}") from None
        before = run[section].model_dump(mode="json")
        if own := {name: merged[name] for name in merged if merged[name] != before[name]}:
            differ[section] = own
    if unknown := given.keys() - READ_BY_PHASE[phase].keys():
        raise UserError(_not_read(f"start.{phase}", min(unknown), READ_BY_PHASE[phase]))
    return differ


def changed(section: AnySection, fields: Mapping[str, Any]) -> AnySection:
    """Return a section with other values for some of its fields.

    Raises:
        ValidationError: If they are not allowed.
    """
    if not fields:
        return section
    return type(section).model_validate(section.model_dump() | dict(fields))


def _not_read(where: str, name: str, allowed: Mapping[str, Any] | frozenset[str]) -> str:
    names = ", ".join(sorted(allowed))
    return f"{where}.{name[:80]}: unknown key{near(name, allowed)}; allowed: {names}"
