"""Weights of models of other sizes: positions, patches, channels and windows brought into line."""

import math
from functools import partial
from typing import Any

from timm.models import convnext, eva, regnet, swin_transformer, swin_transformer_v2
from timm.models import vision_transformer as vit
from torch import Tensor, cat, nn, zeros
from torch.nn import functional

State = dict[str, Tensor]

LARGEST_PATCH = 64  # pixels per side, as for backbone.patch_size
# timm's own, which rename what other versions and authors wrote and resample what they can.
_FILTERS: dict[type[nn.Module], Any] = {
    vit.VisionTransformer: partial(vit.checkpoint_filter_fn, adapt_layer_scale=True),
    eva.Eva: eva.checkpoint_filter_fn,
    swin_transformer.SwinTransformer: swin_transformer.checkpoint_filter_fn,
    swin_transformer_v2.SwinTransformerV2: swin_transformer_v2.checkpoint_filter_fn,
    convnext.ConvNeXt: convnext.checkpoint_filter_fn,
    regnet.RegNet: lambda state, _: regnet._filter_fn(state),
}


def fit_sizes(state: State, backbone: Any) -> State:
    """Return weights as timm's own filter leaves them for a backbone, after ours.

    Ours comes first where timm's would guess: at positions of class and register tokens, and at
    channels. What cannot be brought into line keeps its shape.

    Raises:
        Exception: Whatever timm's filter raises on weights of another architecture.
    """
    model: nn.Module = backbone.vit
    wanted = model.state_dict()
    made = dict(state)
    if not backbone.has_patches:
        first = first_convolution(model)
        if first in made and made[first].ndim == 4:
            made[first] = _of_channels(made[first], wanted[first].shape[1])
        filtered = _FILTERS.get(type(model))
        return dict(filtered(made, model)) if filtered else made
    patches = "patch_embed.proj.weight"
    weight = made.get(patches)
    if weight is not None and weight.ndim == 4:
        made[patches] = _of_channels(weight, wanted[patches].shape[1])
        if not 0 < max(weight.shape[2:]) == min(weight.shape[2:]) <= LARGEST_PATCH:
            return made
    if "pos_embed" in made and "pos_embed" in wanted:
        num_rows = wanted["pos_embed"].shape[1] - backbone.num_patches
        made = _align_positions(made, num_rows, _own_tokens(model))
    if hasattr(model.patch_embed, "grid_size"):  # not of our convolutional stem
        return dict(_FILTERS[type(model)](made, model))
    return made


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
    theirs = next((p for p in (num_prefix, 1, 0, 5, 2, 3, 4) if _leaves_square(length, p)), None)
    if theirs is None:
        raise ValueError(f"{length} positions are not a square grid")
    prefix, grid = positions.float().tensor_split([theirs], dim=1)
    old, new = math.isqrt(grid.shape[1]), math.isqrt(num_patches)
    if old != new:
        grid = grid.transpose(1, 2).unflatten(2, (old, old))
        grid = functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
        grid = grid.flatten(2).transpose(1, 2)
    prefix = functional.pad(prefix[:, :num_prefix], (0, 0, 0, max(0, num_prefix - theirs)))
    return cat([prefix, grid], dim=1)


def _align_positions(state: State, num_rows: int, own: list[str]) -> State:
    """Give the positions of class and register tokens the form that a model wants.

    Some models add a position to these tokens, others have it in the tokens themselves. Both are
    the same sum, so a row without a place goes into its token, and a token without a row gets 0.

    Args:
        state: A model's weights under timm's names.
        num_rows: Rows of the wanted positions in front of the grid.
        own: Names of the wanted model's tokens, in their order.
    """
    positions = state["pos_embed"]
    if positions.ndim != 3 or len(positions) != 1:
        return state
    length, made = positions.shape[1], dict(state)
    theirs = [t for t in ("cls_token", "dist_token", "reg_token") if t in state]
    theirs = [t for t in theirs if state[t].ndim == 3 and state[t].shape[2] == positions.shape[2]]
    for with_rows in (theirs[:count] for count in range(len(theirs), -1, -1)):
        sizes = [state[token].shape[1] for token in with_rows]
        if _leaves_square(length, sum(sizes)):
            break
    else:
        return state
    *rows, grid = positions.split([*sizes, length - sum(sizes)], dim=1)
    by_token = dict(zip(with_rows, rows, strict=True))
    prefix = []
    if num_rows:
        none = {t: zeros(1, state[t].shape[1], positions.shape[2]) for t in own if t in state}
        prefix = [by_token.get(token, none[token]) for token in own if token in state]
    else:
        made |= {token: state[token] + row for token, row in by_token.items()}
    made["pos_embed"] = cat([*prefix, grid], dim=1)
    return made


def _own_tokens(model: Any) -> list[str]:
    return [t for t in ("cls_token", "reg_token") if getattr(model, t, None) is not None]


def _leaves_square(length: int, prefix: int) -> bool:
    return prefix < length and math.isqrt(length - prefix) ** 2 == length - prefix


def _of_channels(weight: Tensor, channels: int) -> Tensor:
    """Make a convolution for gray images one for colors or the reverse, if it is one of these.

    A gray image is one with equal colors: the response to it stays the same.
    """
    if weight.shape[1] == channels or 1 not in (weight.shape[1], channels):
        return weight
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels


def first_convolution(model: nn.Module) -> str:
    """Return the name of the weights of a model's first convolution."""
    found = (n for n, part in model.named_modules() if isinstance(part, nn.Conv2d))
    return f"{next(found)}.weight"
