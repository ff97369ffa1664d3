"""FlexMatch: class-wise thresholds that follow how much of each class has been learned."""

import torch
from torch import Tensor

from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.rules import Rule, base_threshold, write
from semimae.options.method import FlexLabels
from semimae.types import Batch


class FlexMatch(PseudoLabelMethod):
    """FlexMatch (arXiv:2110.08263, algorithm 1), whose rule is ``FlexRule``.

    Deviation: as for FixMatch, the teacher may be the moving average of the weights.
    """


class FlexRule(Rule):
    """Class-wise thresholds that follow how much of each class has been learned.

    Source: arXiv:2110.08263 (FlexMatch), equations 5 to 11: a class's status is the number of
    images whose latest confident prediction is that class; with the paper's threshold warm-up and
    its convex mapping ``x / (2 - x)``.
    """

    options: FlexLabels
    latest: Tensor

    def __init__(self, options: FlexLabels, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.register_buffer("latest", torch.full((num_unlabeled,), num_classes))  # none yet

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        weighed = self.weigh(probs, batch.progress)
        confidence, labels = probs.max(dim=-1)
        base = base_threshold(self.options, batch.progress)
        write(self.latest, batch.unlabeled_index, labels, confidence >= base)
        return weighed

    def weigh(self, probs: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        base = base_threshold(self.options, progress)
        confidence, labels = probs.max(dim=-1)
        # scatter_add rather than bincount: no wait for the device
        status = probs.new_zeros(self.num_classes + 1)
        status = status.scatter_add(0, self.latest, torch.ones_like(self.latest, dtype=probs.dtype))
        share = status[:-1] / status.max().clamp(min=1)  # the last entry counts images without one
        thresholds = base * share / (2 - share)
        return (confidence >= thresholds[labels]).float(), thresholds.mean()
