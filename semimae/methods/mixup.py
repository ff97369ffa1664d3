"""Mixing of pseudo-labeled images."""

import torch
from torch import Tensor

from semimae.mixing import mix, plan_mixing
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
    mixing = plan_mixing(p_i / (p_i + p_j), noise[:, 1] < 0.5, noise[:, 2:], *images.shape[2:])
    mixed = mix(images[rows], images[partner[rows]], mixing.take(rows))
    weight = torch.where(p_i >= p_j, pseudo.weight, pseudo.weight[partner])
    return mixed, pseudo._replace(
        weight=weight, other_labels=pseudo.labels[partner], share=mixing.share
    )
