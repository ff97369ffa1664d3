"""Losses on logits."""

import torch
from torch import Tensor
from torch.nn import functional

from semimae.types import PseudoLabels


def consistency_loss(logits: Tensor, pseudo: PseudoLabels, rows: Tensor | None = None) -> Tensor:
    """Cross-entropy of the strong views against the pseudo labels, a scalar.

    The sum is divided by the number of unlabelled images, not by the number kept: few confident
    labels make a small step (arXiv:2001.07685, equation 4).

    Args:
        logits: ``[U, N]`` of the strong views, or of the views ``rows`` only.
        pseudo: The labels and weights of all ``U`` images; of mixed images both labels.
        rows: ``[K]``, the images that ``logits`` belong to; all others must have weight 0.
    """
    num_images = len(pseudo.weight)
    if rows is not None:
        pseudo = pseudo.take(rows)
    logits = logits.float()
    loss = functional.cross_entropy(logits, pseudo.labels, reduction="none")
    if pseudo.other_labels is not None and pseudo.share is not None:
        other = functional.cross_entropy(logits, pseudo.other_labels, reduction="none")
        loss = pseudo.share * loss + (1 - pseudo.share) * other
    return torch.dot(loss, pseudo.weight) / num_images
