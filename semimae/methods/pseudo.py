"""What all pseudo-label methods share: teacher, alignment, rule, mixing, one student pass."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from semimae.distributed import add_up, gather_rows
from semimae.losses import consistency_loss, supervised_loss
from semimae.methods.base import Method, predict
from semimae.methods.config import MethodOptions
from semimae.methods.mixup import pseudo_mixup
from semimae.methods.rules import RULES, Alignment, FreeRule, SoftRule
from semimae.model import SemiModel
from semimae.types import Batch, Labeled, PseudoLabels


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

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> Labeled:
        probs = predict(teacher if self.config.teacher == "ema" else model, batch, "weak")
        aligned = self.align(probs, batch.labels)
        weight, threshold = self.rule(aligned, batch)
        # SoftMatch aligns predictions to weigh them, not to label by them.
        confidence, labels = (probs if isinstance(self.rule, SoftRule) else aligned).max(dim=-1)
        pseudo = targets = PseudoLabels(labels, confidence, weight)
        if self.config.mixup:  # partners come from the global batch
            strong = gather_rows(batch.strong, batch.first_unlabeled, len(weight))
            mixed, targets = pseudo_mixup(strong, pseudo, batch.mix_noise, batch.unlabeled_rows)
            batch = batch._replace(strong=mixed)
        made = Labeled(batch, pseudo, targets, metrics={"pseudo/threshold": threshold})
        if isinstance(self.rule, FreeRule) and batch.accumulate > 1:
            # Fairness is no sum over images: the gradient needs the whole batch's sums first.
            sums = torch.stack([self.class_sums(model, micro) for micro in made.micro_batches()])
            made = made._replace(class_sums=add_up(sums.sum(dim=0)))
        return made

    def losses(self, model: SemiModel, teacher: SemiModel, labeled: Labeled) -> dict[str, Tensor]:
        batch, targets = labeled.batch, labeled.targets
        assert targets is not None
        own, num_images = targets.take(batch.unlabeled_rows), len(targets.weight)
        ours, logits, rows = self.student_logits(model, batch.labeled, batch.strong, own.weight)
        ramp = fade_in(batch.progress, self.config.lambda_ramp)
        losses = {
            "supervised": supervised_loss(ours, batch),
            "consistency": ramp * consistency_loss(logits, own, rows, num_images),
        }
        if isinstance(self.rule, FreeRule):
            kept = own.weight if rows is None else own.weight[rows]
            sums = self.rule.class_sums(logits, kept)
            whole = labeled.class_sums
            if whole is None:
                whole = add_up(sums.detach().clone())
            # The value is of the global batch, the gradient is that of this share.
            term = self.rule.fairness(sums + (whole - sums.detach()))
            share = term.detach() * (len(batch.strong) / num_images)
            losses["fairness"] = ramp * (term - term.detach() + share)
        return losses

    def class_sums(self, model: SemiModel, labeled: Labeled) -> Tensor:
        """Return ``FreeRule.class_sums`` of a micro-batch's strong views."""
        assert isinstance(self.rule, FreeRule)
        assert labeled.targets is not None
        weight = labeled.targets.weight[labeled.batch.unlabeled_rows]
        strong = labeled.batch.strong
        _, logits, rows = self.student_logits(model, strong[:0], strong, weight)
        return self.rule.class_sums(logits, weight if rows is None else weight[rows])

    def student_logits(
        self, model: SemiModel, labeled: Tensor, strong: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run labeled and strong views in one pass.

        A view with weight 0 has no gradient, so leaving it out changes nothing. How many there are
        must be known to the host, which on a GPU stalls the queue.

        Returns:
            Logits of the labeled views, of the strong views, and the rows of the strong views
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
