"""Mixing of images with others, by blending (mixup) or by pasting a rectangle (cutmix).

Shapes: B images, C channels, H rows, W columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mixing(NamedTuple):
    """What becomes of each image of a batch."""

    share: Tensor  # [B], what an image keeps of itself; of pasted ones the true area
    is_cut: Tensor  # [B], pasted, not blended
    cut: Tensor  # [B, H, W], true where the other image shows if it is pasted

    def take(self, rows: slice) -> "Mixing":
        """Return the same of the images ``rows``."""
        return Mixing(*(part[rows] for part in self))


def plan_mixing(share: Tensor, is_cut: Tensor, center: Tensor, height: int, width: int) -> Mixing:
    """Return how images are mixed that are to keep ``share`` of themselves.

    Args:
        share: ``[B]``, in [0, 1].
        is_cut: Booleans ``[B]``: paste, not blend.
        center: ``[B, 2]``, of the pasted rectangle, as for ``rectangles``.
        height: H.
        width: W.
    """
    cut = rectangles(share, center, height, width)
    return Mixing(torch.where(is_cut, 1 - cut.float().mean(dim=(1, 2)), share), is_cut, cut)


def mix(images: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
    """Mix each of ``images`` ``[B, C, H, W]`` with the one in its place in ``others``."""
    share, is_cut, cut = mixing
    blend = share.reshape(-1, 1, 1, 1).to(images.dtype)
    blended = blend * images + (1 - blend) * others
    pasted = torch.where(cut.unsqueeze(1), others, images)
    return torch.where(is_cut.reshape(-1, 1, 1, 1), pasted, blended)


def rectangles(share: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """Return masks of rectangles that cover about ``1 - share`` of an image.

    Args:
        share: ``[B]``, what is to remain.
        center: ``[B, 2]``, in [0, 1): row and column, as shares of height and width.
        height: Rows.
        width: Columns.

    Returns:
        Booleans ``[B, H, W]``; a rectangle is clipped at the border.

    Source: arXiv:1905.04899 (CutMix), equation 2.
    """
    half = (1 - share).clamp(min=0).sqrt().unsqueeze(1) / 2
    rows = (torch.arange(height, device=share.device) + 0.5) / height
    columns = (torch.arange(width, device=share.device) + 0.5) / width
    inside_rows = (rows - center[:, :1]).abs() < half  # [B, H]
    inside_columns = (columns - center[:, 1:]).abs() < half  # [B, W]
    return inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)
