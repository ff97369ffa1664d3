"""Which patches are hidden."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from semimae.options.mim import MIMOptions
from semimae.patches import num_hidden


class Mask(NamedTuple):
    """Patch indices of a batch, in the order of the noise that hid them."""

    ids_keep: Tensor  # [B, K], visible patches
    ids_hide: Tensor  # [B, L - K], hidden patches


def make_mask(noise: Tensor, mask_ratio: float, options: MIMOptions) -> Mask:
    """Hide patches of square images as the options say.

    Args:
        noise: ``[B, L]``, one draw per patch.
        mask_ratio: Fraction of patches to hide, in (0, 1).
        options: ``masking`` and ``mask_unit``.

    Returns:
        A ``Mask`` whose every row hides ``round(U * mask_ratio)`` of the ``U`` mask units.
    """
    if options.mask_unit == 1:
        units = None
    else:
        units = patches_of_units(math.isqrt(noise.shape[1]), options.mask_unit, noise.device)
        noise = noise[:, units[:, 0]]  # [B, U]: its first patch decides for the unit
    if options.masking == "block":
        noise = smooth(noise)
    mask = random_masking(noise, mask_ratio)
    return mask if units is None else Mask(*(units[ids].flatten(1) for ids in mask))


def random_masking(noise: Tensor, mask_ratio: float) -> Mask:
    """Hide the patches with the largest noise, independently for each image.

    Args:
        noise: ``[B, L]``, one draw per patch. Taking the noise as an argument makes the mask a
            pure function.
        mask_ratio: Fraction of patches to hide, in (0, 1).

    Returns:
        A ``Mask`` whose every row hides ``round(L * mask_ratio)`` patches.

    Raises:
        ValueError: If that count is 0 or ``L``.

    Source: arXiv:2111.06377, section 3.
    """
    num_patches = noise.shape[1]
    kept = num_patches - num_hidden(num_patches, mask_ratio)
    ids_shuffle = noise.argsort(dim=1)
    return Mask(ids_shuffle[:, :kept], ids_shuffle[:, kept:])


def smooth(noise: Tensor) -> Tensor:
    """Average noise ``[B, L]`` over a neighborhood, so that its largest values lie in blocks.

    The neighborhood is a little less than half as wide as the image and wraps around its borders:
    every patch is equally likely to be hidden.

    Deviation from arXiv:2106.08254, algorithm 1, which draws rectangles until enough is covered:
    the blocks here have no fixed shape, but the mask is a pure function of the noise, every image
    hides the same number of patches, and the whole batch is computed at once.
    """
    side = math.isqrt(noise.shape[1])
    width = (side // 2 - 1) | 1  # odd: centered on the patch
    padded = functional.pad(noise.reshape(-1, 1, side, side), (width // 2,) * 4, mode="circular")
    return functional.avg_pool2d(padded, width, stride=1).flatten(1)


def patches_of_units(side: int, unit: int, device: torch.device) -> Tensor:
    """Return the patches in each square of ``unit * unit`` patches: ``[U, unit * unit]``."""
    grid = torch.arange(side * side, device=device).reshape(side // unit, unit, side // unit, unit)
    return grid.permute(0, 2, 1, 3).reshape(-1, unit * unit)
