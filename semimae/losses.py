"""Losses on logits, and the rule that turns a teacher's logits into pseudo labels."""

import torch
from torch import Tensor
from torch.nn import functional

from semimae.types import PseudoLabels


def pseudo_label(logits: Tensor, threshold: float) -> PseudoLabels:
    """Take the teacher's most likely class where its probability reaches ``threshold``.

    Args:
        logits: ``[U, N]``, the teacher's for the weak views.
        threshold: Smallest probability that counts as confident, in [0, 1].

    Source: arXiv:2001.07685 (FixMatch), section 2.2.
    """
    confidence, labels = logits.detach().float().softmax(dim=-1).max(dim=-1)
    return PseudoLabels(labels, confidence, (confidence >= threshold).float())


def consistency_loss(logits: Tensor, pseudo: PseudoLabels, rows: Tensor | None = None) -> Tensor:
    """Cross-entropy of the strong views against the pseudo labels, a scalar.

    The sum is divided by the number of unlabelled images, not by the number kept: few confident
    labels make a small step (arXiv:2001.07685, equation 4).

    Args:
        logits: ``[U, N]`` of the strong views, or of the views ``rows`` only.
        pseudo: The labels and weights of all ``U`` images.
        rows: ``[K]``, the images that ``logits`` belong to; all others must have weight 0.
    """
    labels, weight = pseudo.labels, pseudo.weight
    if rows is not None:
        labels, weight = labels[rows], weight[rows]
    loss = functional.cross_entropy(logits.float(), labels, reduction="none")  # [U] or [K]
    return torch.dot(loss, weight) / pseudo.weight.shape[0]
