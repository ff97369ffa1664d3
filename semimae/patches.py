"""How images become patches, and how some of the patches are picked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # options count patches, and load no torch
    from torch import Tensor


def num_hidden(num_patches: int, mask_ratio: float) -> int:
    """Return how many of ``num_patches`` are hidden.

    The hidden count is rounded, not the kept count cut off: ``int(20 * (1 - 0.8))`` keeps 3 of 20.

    Raises:
        ValueError: If nothing would be hidden or nothing kept.
    """
    hidden = round(num_patches * mask_ratio)
    if not 0 < hidden < num_patches:
        raise ValueError(
            f"mask_ratio={mask_ratio} hides {hidden} of {num_patches} patches; "
            "at least one must be hidden and one kept."
        )
    return hidden


def gather_patches(patches: Tensor, ids: Tensor) -> Tensor:
    """Pick patches ``ids`` ``[B, K]`` from ``[B, L, D]`` (or ``[1, L, D]``): ``[B, K, D]``."""
    patches = patches.expand(ids.shape[0], -1, -1)
    return patches.gather(1, ids.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, row by row.

    Args:
        images: ``[B, C, H, W]``; ``patch_size`` divides H and W.
        patch_size: Side of a patch in pixels.

    Returns:
        ``[B, L, patch_size * patch_size * C]``, channels last inside a patch, as in
        arXiv:2111.06377's reference weights.
    """
    b, c, h, w = images.shape
    p = patch_size
    x = images.reshape(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """Put the patches of square images together again; the inverse of ``patchify``."""
    b, length, _ = patches.shape
    side, p = round(length**0.5), patch_size
    x = patches.reshape(b, side, side, p, p, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, channels, side * p, side * p)


def scatter_patches(patches: Tensor, ids: Tensor) -> Tensor:
    """Put patches ``[B, L, D]`` back to the positions ``ids`` ``[B, L]``, a permutation per row.

    The inverse of ``gather_patches`` with all patches picked.
    """
    ids = ids.unsqueeze(-1).expand_as(patches)
    return patches.new_empty(patches.shape).scatter(1, ids, patches)
