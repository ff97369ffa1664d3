"""FreeMatch: thresholds from running confidence, and a fairness term."""

from collections.abc import Mapping

import torch
from torch import Tensor

from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.rules import Rule, class_shares
from semimae.options.pseudo_label import FreeLabels
from semimae.types import Batch


class FreeMatch(PseudoLabelMethod):
    """FreeMatch (arXiv:2205.07246, algorithm 1), whose rule is ``FreeRule``.

    Deviation: as for FixMatch, the teacher may be the moving average of the weights.
    """


class FreeRule(Rule):
    """Global and class-wise thresholds from running means of confidence.

    Source: arXiv:2205.07246 (FreeMatch), equations 5 to 8. ``fairness`` is its equation 11.
    """

    options: FreeLabels
    confidence: Tensor
    mean_probs: Tensor
    histogram: Tensor

    def __init__(self, options: FreeLabels, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        uniform = torch.full((num_classes,), 1 / num_classes)
        self.register_buffer("confidence", uniform[0].clone())
        self.register_buffer("mean_probs", uniform.clone())
        self.register_buffer("histogram", uniform.clone())

    @property
    def weights(self) -> Mapping[str, float]:
        return {"fairness": self.options.lambda_fair}

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        confidence, labels = probs.max(dim=-1)
        pace = 1 - self.options.momentum
        self.confidence.lerp_(confidence.mean(), pace)
        self.mean_probs.lerp_(probs.mean(dim=0), pace)
        self.histogram.lerp_(class_shares(labels, self.num_classes), pace)
        return self.weigh(probs, batch.progress)

    def weigh(self, probs: Tensor, progress: float | Tensor) -> tuple[Tensor, Tensor]:
        confidence, labels = probs.max(dim=-1)
        thresholds = self.confidence * self.mean_probs / self.mean_probs.max()
        return (confidence >= thresholds[labels]).float(), thresholds.mean()

    def statistics(self, logits: Tensor, weight: Tensor) -> Tensor:
        """Return sums per class over strong views with weights ``[K]``: ``[2, N]``.

        The first row is of their probabilities, with gradient, the second counts predictions.
        """
        probs = logits.float().softmax(dim=-1)
        counts = weight.new_zeros(self.num_classes).scatter_add(0, probs.argmax(dim=-1), weight)
        return torch.stack([(probs * weight.unsqueeze(1)).sum(dim=0), counts])

    def losses(self, statistics: Tensor) -> dict[str, Tensor]:
        return {"fairness": self.fairness(statistics)}

    def fairness(self, class_sums: Tensor) -> Tensor:
        """Return the fairness loss of the views that ``class_sums`` ``[2, N]`` are of, a scalar.

        It is the negative cross-entropy between the running and the batch's class distributions,
        both divided by their histograms: low when the predictions spread over all classes.
        """
        sums, counts = class_sums
        total = counts.sum()
        mean_probs = sums / total.clamp(min=1)
        shares = counts / total.clamp(min=1e-12)
        ours = torch.where(shares > 0, mean_probs / shares.clamp(min=1e-12), 0.0)
        running = self.mean_probs / self.histogram.clamp(min=1e-12)
        ours, running = ours / ours.sum().clamp(min=1e-12), running / running.sum()
        term: Tensor = (running * (ours + 1e-12).log()).sum() * (total > 0)
        return term
