"""Filling a model from weights of others: official MAE checkpoints, timm's, our own."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers import resample_patch_embed, resize_rel_pos_bias_table_simple
from torch import Tensor, nn
from torch.nn import functional

from semimae.backbones.weight_files import TIMM, read_file, read_timm
from semimae.types import UserError

_ENCODER = "backbone.vit."
LARGEST_PATCH = 64  # pixels per side, as for backbone.patch_size
_KINDS = ("missing", "unexpected", "dropped", "resized")


@dataclass(frozen=True)
class WeightReport:
    """What became of every key of the model and of the file."""

    source: str
    num_loaded: int
    missing: tuple[str, ...]  # of the model, not in the file: fresh
    unexpected: tuple[str, ...]  # of the file, not in the model: left out
    dropped: tuple[str, ...]  # of both, but they do not fit: fresh
    resized: tuple[str, ...]  # with both shapes

    def __str__(self) -> str:
        """Return a line per kind of key."""
        kinds = [(kind, getattr(self, kind)) for kind in _KINDS]
        lines = [f"  {kind} ({len(keys)}): {', '.join(keys)}" for kind, keys in kinds if keys]
        return "\n".join([f"{self.source}: {self.num_loaded} tensors loaded", *lines])


def load_weights(
    model: nn.Module, spec: str, *, timm_model: str | None = None, root: Path = Path()
) -> WeightReport:
    """Fill a model from weights of the same architecture; names and sizes are brought into line.

    Position embeddings and patch embeddings are resampled where grid, patch or channels differ, a
    first convolution where channels do. The classifier is left out where the number of classes
    differs, the MIM branch where any of it does.

    Args:
        model: A ``SemiModel``; changed in place.
        spec: ``timm:TAG`` or a file.
        timm_model: The name in timm that a tag belongs to.
        root: What a relative path is relative to.

    Raises:
        UserError: If the weights cannot be read or belong to another architecture.
    """
    found = read_timm(spec, timm_model) if spec.startswith(TIMM) else read_file(root / spec)
    found = _stages_as_in_timm({our_name(name): tensor for name, tensor in found.items()})
    wanted: dict[str, Tensor] = model.state_dict()
    loaded: dict[str, Tensor] = {}
    dropped, resized = [], []
    head = _prefix_of(model.backbone.classifier, model)  # type: ignore[union-attr,arg-type]
    for name in sorted(found.keys() & wanted.keys()):
        theirs, shape = found[name], wanted[name].shape
        fitted = theirs if theirs.shape == shape else _resize(name, theirs, wanted[name], model)
        if theirs.is_floating_point() != wanted[name].is_floating_point():
            raise UserError(
                f"backbone.weights={spec}: {name} holds {theirs.dtype} there and "
                f"{wanted[name].dtype} in the model; give weights of the same kind of numbers."
            )
        if fitted is not None and fitted.shape == shape:
            loaded[name] = fitted
            if theirs.shape != shape:
                resized.append(f"{name} ({_text(theirs.shape)} to {_text(shape)})")
        elif name.startswith((head, "mim.")):
            dropped.append(name)
        else:
            raise UserError(
                f"backbone.weights={spec}: {name} is {_text(theirs.shape)} there and "
                f"{_text(shape)} in the model; set section backbone to the sizes of the weights."
            )
    branch = {name for name in loaded if name.startswith("mim.")}
    if branch != {name for name in {*found, *wanted} if name.startswith("mim.")}:
        dropped += branch  # parts of another decoder are worth nothing
        loaded = {name: tensor for name, tensor in loaded.items() if name not in branch}
    if not any(name.startswith(_ENCODER) for name in loaded):
        some = ", ".join(name[:80] for name in sorted(found)[:3]) or "nothing"
        raise UserError(
            f"backbone.weights={spec} matches nothing in the backbone (it holds {some}); give "
            "weights of the same architecture."
        )
    model.load_state_dict(loaded, strict=False)
    return WeightReport(
        source=spec,
        num_loaded=len(loaded),
        missing=tuple(sorted(wanted.keys() - found.keys())),
        unexpected=tuple(sorted(found.keys() - wanted.keys())),
        dropped=tuple(sorted(dropped)),
        resized=tuple(entry for entry in resized if entry.split()[0] in loaded),
    )


def our_name(name: str) -> str:
    """Translate a key of a published checkpoint, of timm or of ours to ours.

    >>> our_name("blocks.0.norm1.bias"), our_name("decoder_norm.bias"), our_name("mim.mask_token")
    ('backbone.vit.blocks.0.norm1.bias', 'mim.decoder_norm.bias', 'mim.mask_token')
    """
    name = name.removeprefix("module.").removeprefix("model.")
    if name.startswith(("decoder_", "mask_token")):
        return f"mim.{name}"
    if name.startswith("mim."):
        return name
    name = name.removeprefix("backbone.").removeprefix("vit.")
    if name.startswith("fc_norm."):  # behind the pooling there, in front of it here
        name = name.removeprefix("fc_")
    return _ENCODER + name


def _stages_as_in_timm(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename what Swin's authors put at the end of a stage and timm at the start of the next."""
    if f"{_ENCODER}layers.0.downsample.reduction.weight" not in found:
        return found

    def renamed(name: str) -> str:
        name = re.sub(r"layers\.(\d+)\.down", lambda m: f"layers.{int(m[1]) + 1}.down", name)
        return name.replace(f"{_ENCODER}head.", f"{_ENCODER}head.fc.")

    return {renamed(name): tensor for name, tensor in found.items()}


def resize_positions(positions: Tensor, num_patches: int, num_prefix: int) -> Tensor:
    """Interpolate position embeddings of a square grid bicubically.

    Args:
        positions: ``[1, prefix' + L', D]``; how many belong to class and register tokens is the
            first plausible number that leaves a square.
        num_patches: Size of the new grid.
        num_prefix: Positions in front of it; further ones are 0.

    Returns:
        ``[1, num_prefix + num_patches, D]``.

    Raises:
        ValueError: If there is no grid in ``positions``.
    """
    length = positions.shape[1]
    plausible = [p for p in (num_prefix, 1, 0, 5, 2, 3, 4) if p < length]
    theirs = next((p for p in plausible if math.isqrt(length - p) ** 2 == length - p), None)
    if theirs is None:
        raise ValueError(f"{length} positions are not a square grid")
    prefix, grid = positions.float().tensor_split([theirs], dim=1)
    old, new = math.isqrt(grid.shape[1]), math.isqrt(num_patches)
    if old != new:
        grid = grid.transpose(1, 2).unflatten(2, (old, old))
        grid = functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
        grid = grid.flatten(2).transpose(1, 2)
    prefix = functional.pad(prefix[:, :num_prefix], (0, 0, 0, max(0, num_prefix - theirs)))
    return torch.cat([prefix, grid], dim=1)


def _resize(name: str, theirs: Tensor, ours: Tensor, model: nn.Module) -> Tensor | None:
    """Bring a tensor to our shape, or return ``None`` if it is not one of those that can be."""
    if theirs.ndim != ours.ndim:
        return None
    if name.endswith("pos_embed") and theirs.shape[-1] == ours.shape[-1]:
        num_patches: int = model.backbone.num_patches  # type: ignore[union-attr,assignment]
        try:
            return resize_positions(theirs, num_patches, ours.shape[1] - num_patches)
        except ValueError:
            return None
    if name.endswith("patch_embed.proj.weight") and theirs.shape[0] == ours.shape[0]:
        if not 0 < max(theirs.shape[2:]) == min(theirs.shape[2:]) <= LARGEST_PATCH:
            return None
        fitted = _of_channels(theirs, ours.shape[1])
        if fitted is not None and fitted.shape[2:] != ours.shape[2:]:
            fitted = resample_patch_embed(fitted.float(), list(ours.shape[2:]))
        return fitted
    is_convolutional = not model.backbone.has_patches  # type: ignore[union-attr]
    if is_convolutional and name == f"{_first_convolution(model)}weight":
        return _of_channels(theirs, ours.shape[1])
    if name.endswith("relative_position_bias_table") and theirs.shape[1] == ours.shape[1]:
        if math.isqrt(len(theirs)) ** 2 != len(theirs) or not len(theirs):
            return None
        window = model.get_submodule(name.rpartition(".")[0]).window_size
        return resize_rel_pos_bias_table_simple(theirs, window, ours.shape)  # type: ignore[no-any-return]
    return None


def _of_channels(weight: Tensor, channels: int) -> Tensor | None:
    """Make a convolution for gray images one for colors or the reverse, if it is one of these.

    A gray image is one with equal colors: the response to it stays the same.
    """
    if weight.shape[1] == channels:
        return weight
    if 1 not in (weight.shape[1], channels):
        return None
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels


def _first_convolution(model: nn.Module) -> str:
    found = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    return _prefix_of(next(found), model)


def _prefix_of(part: nn.Module, model: nn.Module) -> str:
    """Return what the names of a part's weights begin with."""
    return next(f"{name}." for name, module in model.named_modules() if module is part)


def _text(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
