"""The report on pretrained weights that a model was filled with, and the refusal of others."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from semimae.types import Frozen, UserError

ENCODER = "backbone.vit."  # the prefix of the weights of timm's model in a SemiModel
_KINDS = ("notes", "missing", "unexpected", "dropped", "resized")
_SHOWN = 3  # names in a message


class WeightReport(Frozen):
    """What became of every key of the model and of the part of the file that was taken."""

    source: str
    num_loaded: int
    num_backbone: int  # all tensors of the backbone except its classifier
    num_values: int  # the numbers in these tensors
    layout: str  # whose names the file uses
    part: str  # the part of the file that was used; empty for the whole file
    other_parts: tuple[str, ...]  # other parts of the file with as much of the backbone
    sha256: str | None  # the hash of the file
    license: str | None
    notes: tuple[str, ...]  # how the model computes something differently from the original
    missing: tuple[str, ...]  # the file lacks them: they stay as initialized
    unexpected: tuple[str, ...]  # the model lacks them: they are ignored
    dropped: tuple[str, ...]  # their shapes do not fit: they stay as initialized
    resized: tuple[str, ...]  # they were resampled; with both shapes

    def __str__(self) -> str:
        """Return a line per kind of key, with the first few."""
        kinds = [(kind, getattr(self, kind)) for kind in _KINDS]
        lines = [f"  {kind} ({len(keys)}): {_some(keys)}" for kind, keys in kinds if keys]
        if self.other_parts:
            lines.insert(0, f"  taken is {self.part}, not {', '.join(self.other_parts)}")
        return "\n".join([f"{self.source}: {self.num_loaded} tensors loaded", *lines])


def incomplete(spec: str, extra: Iterable[str], missing: set[str], total: int) -> UserError:
    """Say how much of a backbone was found, and what the rest looks like on both sides."""
    lacking = sorted(name.removeprefix(ENCODER) for name in missing)
    found, extra, parts = total - len(lacking), sorted(extra), []
    if lacking:
        parts.append(f"lacking {_some(lacking)}")
    if extra:
        parts.append(f"without a place in the model: {_some(extra)}")
    return UserError(
        f"backbone.weights={spec}: {found} of {total} tensors of the backbone found; "
        f"{'; '.join(parts)}. Give weights of the same architecture, or set section backbone to "
        "theirs."
    )


def sizes(tensor: Tensor) -> str:
    """Return the shape of a tensor in words."""
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
