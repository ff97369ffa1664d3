"""What all pseudo-label methods share: teacher, alignment, rule, mixing, one student pass."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from semimae.losses import consistency_loss
from semimae.methods.base import Method
from semimae.methods.config import MethodOptions
from semimae.methods.mixup import pseudo_mixup
from semimae.methods.rules import RULES, Alignment, FreeRule
from semimae.model import SemiModel
from semimae.types import Batch, PseudoLabels, StepOutput


class PseudoLabelMethod(Method):
    """Confident predictions on weak views label the strong views (arXiv:2001.07685, section 2).

    A subclass names its rule and may add terms.
    """

    rule_name: ClassVar[str | None] = None  # None: the rule that params.yaml names

    def __init__(self, options: MethodOptions, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        assert options.pseudo_label is not None
        self.config = options.pseudo_label
        rule = RULES[self.rule_name or self.config.rule]
        self.rule = rule(self.config, num_classes, num_unlabeled)
        self.align = Alignment(self.config, num_classes)

    @property
    def weights(self) -> Mapping[str, float]:
        weights = {"supervised": 1.0, "consistency": self.config.lambda_u}
        if isinstance(self.rule, FreeRule):
            weights["fairness"] = self.config.lambda_fair
        return weights

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        probs = self.teacher_probs(model, teacher, batch)
        weight, threshold = self.rule(probs, batch)
        confidence, labels = probs.max(dim=-1)
        pseudo = PseudoLabels(labels, confidence, weight)
        strong, targets = batch.strong, pseudo
        if self.config.mixup:
            strong, targets = pseudo_mixup(batch.strong, pseudo, batch.mix_noise)
        labeled, logits, rows = self.student_logits(model, batch.labeled, strong, targets.weight)
        ramp = fade_in(batch.progress, self.config.lambda_ramp)
        losses = {
            "supervised": functional.cross_entropy(labeled.float(), batch.labels),
            "consistency": ramp * consistency_loss(logits, targets, rows),
        }
        if isinstance(self.rule, FreeRule):
            kept = targets.weight if rows is None else targets.weight[rows]
            losses["fairness"] = ramp * self.rule.fairness(logits, kept)
        return StepOutput(losses, {"pseudo/threshold": threshold}, pseudo)

    @torch.no_grad()
    def teacher_probs(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> Tensor:
        """Return the teacher's aligned class probabilities of the weak views, ``[U, N]``."""
        logits = (teacher if self.config.teacher == "ema" else model)(batch.weak)
        aligned: Tensor = self.align(logits.float().softmax(dim=-1), batch.labels)
        return aligned

    def student_logits(
        self, model: SemiModel, labeled: Tensor, strong: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run labelled and strong views in one pass.

        A view with weight 0 has no gradient, so leaving it out changes nothing. How many there are
        must be known to the host, which on a GPU stalls the queue.

        Returns:
            Logits of the labelled views, of the strong views, and the rows of the strong views
            that were run (``None``: all).
        """
        rows = None
        skip, device = self.config.skip_rejected, strong.device.type
        if device == "cpu" and skip != "never":
            rows = weight.nonzero().squeeze(1)
        elif device in ("cuda", "mps") and skip == "always":
            rows = rows_that_count(weight)
        if rows is not None:
            strong = strong[rows]
        first, second = model(torch.cat([labeled, strong])).tensor_split([len(labeled)])
        return first, second, rows


def rows_that_count(weight: Tensor, buckets: int = 8) -> Tensor:
    """Return the rows with a weight, then some without, so that few different numbers occur.

    A GPU keeps kernels and memory for each shape that it sees.

    Args:
        weight: ``[U]``, none below 0.
        buckets: The result's length is a multiple of ``U / buckets``, rounded up, or ``U``.
    """
    size = -(-len(weight) // buckets)
    count = int(weight.count_nonzero())  # here the host waits
    padded = min(-(-count // size) * size, len(weight))
    return (weight == 0).byte().argsort(stable=True)[:padded]


def fade_in(progress: float, ramp: float) -> float:
    """Return ``exp(-5 (1 - progress / ramp)^2)`` in the ramp, then 1 (arXiv:1703.01780, 3.1)."""
    return math.exp(-5 * (1 - progress / ramp) ** 2) if progress < ramp else 1.0
