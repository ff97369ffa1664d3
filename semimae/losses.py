"""Losses on logits."""

import torch
from torch import Tensor
from torch.nn import functional

from semimae.types import Batch, PseudoLabels


def part_of_mean(mean: Tensor, part: int, whole: int) -> Tensor:
    """Weigh the mean over ``part`` of ``whole`` images, so that all parts add up to their mean."""
    return mean * (part / whole) if part else mean.new_zeros(())  # the mean of nothing is NaN


def supervised_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of logits ``[b, N]`` of labeled views; shares add up to the batch's mean."""
    targets = batch.labels[batch.labeled_rows] if batch.targets is None else batch.targets
    loss = functional.cross_entropy(logits.float(), targets)
    return part_of_mean(loss, len(batch.labeled), len(batch.labels))


def consistency_loss(
    logits: Tensor,
    pseudo: PseudoLabels,
    rows: Tensor | None = None,
    num_images: int | None = None,
) -> Tensor:
    """Cross-entropy of the strong views against the pseudo labels, a scalar.

    The sum is divided by the number of unlabeled images, not by the number kept: few confident
    labels make a small step (arXiv:2001.07685, equation 4).

    Args:
        logits: ``[U, N]`` of the strong views, or of the views ``rows`` only.
        pseudo: The labels and weights of all ``U`` images; of mixed images both labels.
        rows: ``[K]``, the images that ``logits`` belong to; all others must have weight 0.
        num_images: What to divide by where ``pseudo`` is a share of the global batch.
    """
    num_images = len(pseudo.weight) if num_images is None else num_images
    if rows is not None:
        pseudo = pseudo.take(rows)
    logits = logits.float()
    loss = functional.cross_entropy(logits, pseudo.labels, reduction="none")
    if pseudo.other_labels is not None and pseudo.share is not None:
        other = functional.cross_entropy(logits, pseudo.other_labels, reduction="none")
        loss = pseudo.share * loss + (1 - pseudo.share) * other
    return torch.dot(loss, pseudo.weight) / num_images
