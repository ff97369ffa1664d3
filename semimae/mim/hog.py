"""Histograms of oriented gradients."""

import math

import torch
from torch import Tensor

from semimae.patches import patchify


def hog(images: Tensor, cell: int, orientations: int = 9) -> Tensor:
    """Count the directions of the gradients in each cell, per channel.

    Gradients are central differences, 0 across the border; each pixel votes for the one direction
    (modulo 180 degrees) that it points to, with the length of its gradient; each histogram is
    scaled to length 1.

    Args:
        images: ``[B, C, H, W]``; ``cell`` divides H and W.
        cell: Side of a cell in pixels.
        orientations: Directions between 0 and 180 degrees.

    Returns:
        ``[B, C * orientations, H / cell, W / cell]``.

    Source: arXiv:2112.09133 (MaskFeat), section 3.2; Dalal and Triggs, CVPR 2005.
    """
    b, c, h, w = images.shape
    rows, columns = torch.zeros_like(images), torch.zeros_like(images)
    rows[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    columns[..., 1:-1] = images[..., 2:] - images[..., :-2]
    length = torch.hypot(rows, columns)
    angle = torch.atan2(rows, columns).remainder(math.pi)
    direction = (angle * (orientations / math.pi)).long().clamp(max=orientations - 1)
    votes = length.new_zeros(b, c, orientations, h, w)
    votes.scatter_(2, direction.unsqueeze(2), length.unsqueeze(2))
    cells = votes.reshape(b, c, orientations, h // cell, cell, w // cell, cell).mean(dim=(4, 6))
    scaled = cells * (cells.square().sum(dim=2, keepdim=True) + 1e-10).rsqrt()
    return scaled.flatten(1, 2)


def hog_of_patches(images: Tensor, patch_size: int) -> Tensor:
    """Return the histograms of each patch: ``[B, L, features]``.

    A patch has two by two cells, as 16-pixel patches with 8-pixel cells in MaskFeat; one, if its
    side is odd.
    """
    cell = patch_size // 2 if patch_size % 2 == 0 else patch_size
    return patchify(hog(images, cell), patch_size // cell)
