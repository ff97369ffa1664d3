"""Mixing of pseudo-labeled images."""

import torch
from torch import Tensor

from semimae.types import PseudoLabels


def pseudo_mixup(
    images: Tensor, pseudo: PseudoLabels, noise: Tensor, rows: slice = slice(None)
) -> tuple[Tensor, PseudoLabels]:
    """Mix each image with a random other one, in proportion to their confidences.

    With confidences ``p_i`` and ``p_j`` image i keeps the share ``lambda = p_i / (p_i + p_j)``; a
    mixed image counts if the more confident of the two does. Half of the images are blended
    (mixup), half get a rectangle of the other (cutmix, whose true area then gives lambda).

    Args:
        images: ``[U, C, H, W]``.
        pseudo: Their pseudo labels.
        noise: ``[U, 4]`` uniform draws: partner, kind, and the rectangle's center.
        rows: The images that are wanted mixed; labels are of all.

    Returns:
        Mixed images of ``rows``, and labels that carry both classes.

    Source: arXiv:2208.05688 (Semi-ViT), section 3.3.
    """
    order = noise[:, 0].argsort()
    partner = order.roll(1)[order.argsort()]  # a cycle through all images: nobody meets itself
    p_i, p_j = pseudo.confidence, pseudo.confidence[partner]
    share = p_i / (p_i + p_j)
    height, width = images.shape[2:]
    cut = rectangles(share, noise[:, 2:], height, width)  # [U, H, W], true where the other shows
    is_cut = noise[:, 1] < 0.5
    share = torch.where(is_cut, 1 - cut.float().mean(dim=(1, 2)), share)
    others, images = images[partner[rows]], images[rows]
    blend = share[rows].reshape(-1, 1, 1, 1).to(images.dtype)
    blended = blend * images + (1 - blend) * others
    pasted = torch.where(cut[rows].unsqueeze(1), others, images)
    mixed = torch.where(is_cut[rows].reshape(-1, 1, 1, 1), pasted, blended)
    weight = torch.where(p_i >= p_j, pseudo.weight, pseudo.weight[partner])
    return mixed, pseudo._replace(weight=weight, other_labels=pseudo.labels[partner], share=share)


def rectangles(share: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """Return masks of rectangles that cover about ``1 - share`` of an image.

    Args:
        share: ``[U]``, what is to remain.
        center: ``[U, 2]``, in [0, 1): row and column, as shares of height and width.
        height: Rows.
        width: Columns.

    Returns:
        Booleans ``[U, H, W]``; a rectangle is clipped at the border.

    Source: arXiv:1905.04899 (CutMix), equation 2.
    """
    half = (1 - share).clamp(min=0).sqrt().unsqueeze(1) / 2
    rows = (torch.arange(height, device=share.device) + 0.5) / height
    columns = (torch.arange(width, device=share.device) + 0.5) / width
    inside_rows = (rows - center[:, :1]).abs() < half  # [U, H]
    inside_columns = (columns - center[:, 1:]).abs() < half  # [U, W]
    return inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)
