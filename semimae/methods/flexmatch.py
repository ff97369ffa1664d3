"""FlexMatch: class-wise thresholds that follow how much of each class has been learned."""

import torch
from torch import Tensor

from semimae.methods.memory import Memory
from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.rules import Rule, base_threshold
from semimae.options.pseudo_label import FlexLabels
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
    counts: Tensor  # [N + 1], images by their latest confident prediction, last those without one

    def __init__(self, options: FlexLabels, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.latest = Memory(num_unlabeled, num_classes)
        counts = torch.zeros(num_classes + 1, dtype=torch.int64)  # float32 ends at 2**24 images
        counts[-1] = num_unlabeled
        self.register_buffer("counts", counts)

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        weighed = self.weigh(probs, batch.progress)
        confidence, labels = probs.max(dim=-1)
        base = base_threshold(self.options, batch.progress)
        before, after, once = self.latest.write(batch.unlabeled_index, labels, confidence >= base)
        self.counts.scatter_add_(0, after, once.long()).scatter_add_(0, before, -once.long())
        return weighed

    def weigh(self, probs: Tensor, progress: float | Tensor) -> tuple[Tensor, Tensor]:
        base = base_threshold(self.options, progress)
        confidence, labels = probs.max(dim=-1)
        status = self.counts.to(probs.dtype)
        share = status[:-1] / status.max().clamp(min=1)
        thresholds = base * share / (2 - share)
        return (confidence >= thresholds[labels]).float(), thresholds.mean()
