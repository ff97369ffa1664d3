"""SoftMatch: every pseudo label counts, the less the further its confidence is below the mean."""

from typing import ClassVar

import torch
from torch import Tensor

from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.rules import Rule
from semimae.options.pseudo_label import SoftLabels
from semimae.types import Batch


class SoftMatch(PseudoLabelMethod):
    """SoftMatch (arXiv:2301.10921, algorithm 1), whose rule is ``SoftRule``.

    The paper aligns predictions to the uniform distribution (section 3.3), so ``alignment: none``
    means ``uniform`` here. Deviation: the teacher may be the moving average of the weights.
    """


class SoftRule(Rule):
    """Weights from a truncated Gaussian instead of a threshold.

    Source: arXiv:2301.10921 (SoftMatch), equations 5 to 7, with its published width (two standard
    deviations). The paper aligns predictions to weigh them, not to label by them.
    """

    labels_by_aligned: ClassVar[bool] = False
    options: SoftLabels
    mean: Tensor
    var: Tensor

    def __init__(self, options: SoftLabels, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.register_buffer("mean", torch.tensor(1 / num_classes))
        self.register_buffer("var", torch.tensor(1.0))

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        confidence = probs.max(dim=-1).values
        pace = 1 - self.options.momentum
        self.mean.lerp_(confidence.mean(), pace)
        if len(confidence) > 1:
            self.var.lerp_(confidence.var(), pace)
        return self.weigh(probs, batch.progress)

    def weigh(self, probs: Tensor, progress: float | Tensor) -> tuple[Tensor, Tensor]:
        confidence = probs.max(dim=-1).values
        below = (confidence - self.mean).clamp(max=0)
        width = (2 * self.var / 4).clamp(min=1e-12)  # all may be equally confident
        return (-below.square() / width).exp(), self.mean.clone()
