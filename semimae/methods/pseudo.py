"""What all pseudo-label methods share: teacher, alignment, rule, mixing, one student pass."""

import math
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from semimae.distributed import add_up, gather_rows
from semimae.losses import consistency_loss, supervised_loss
from semimae.methods.base import Method, predict, student_logits
from semimae.methods.mixup import pseudo_mixup
from semimae.methods.rules import Alignment, Rule
from semimae.model import SemiModel
from semimae.options.pseudo_label import PseudoLabelOptions
from semimae.types import Batch, LossInputs, PseudoLabels


class PseudoLabelMethod(Method):
    """Confident predictions on weak views label the strong views (arXiv:2001.07685, section 2).

    The options name the rule; a subclass may add terms.
    """

    def __init__(self, options: Any, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.config: PseudoLabelOptions = options.pseudo_label
        rule: type[Rule] = resolve_name(self.config.implementation)
        self.rule = rule(self.config, num_classes, num_unlabeled)
        self.align = Alignment(self.config, num_classes)

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {"supervised": 1.0, "consistency": self.config.lambda_u, **self.rule.weights}

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> LossInputs:
        probs = predict(teacher if self.config.teacher == "ema" else model, batch, "weak")
        aligned = self.align(probs, batch.labels)
        weight, threshold = self.rule(aligned, batch)
        pseudo = targets = self._pseudo_labels(probs, aligned, weight)
        if self.config.mixup:  # partners come from the global batch
            strong = gather_rows(batch.strong, batch.first_unlabeled, len(weight))
            mixed, targets = pseudo_mixup(strong, pseudo, batch.mix_noise, batch.unlabeled_rows)
            batch = batch._replace(strong=mixed)
        made = LossInputs(batch, pseudo, targets, metrics={"pseudo/threshold": threshold})
        if self.rule.weights and batch.accumulate > 1:
            # The rule's terms are no sums over images: they need the whole batch's sums first.
            sums = torch.stack([self.statistics(model, micro) for micro in made.micro_batches()])
            made = made._replace(statistics=add_up(sums.sum(dim=0)))
        return made

    def label_validation(self, student: Tensor, teacher: Tensor, progress: float) -> PseudoLabels:
        """Label by the rule and the alignment as they stand."""
        probs = (teacher if self.config.teacher == "ema" else student).to(self.align.mean_probs)
        aligned = self.align.aligned(probs)
        weight, _ = self.rule.weigh(aligned, progress)
        return self._pseudo_labels(probs, aligned, weight)

    def _pseudo_labels(self, probs: Tensor, aligned: Tensor, weight: Tensor) -> PseudoLabels:
        confidence, labels = (aligned if self.rule.labels_by_aligned else probs).max(dim=-1)
        return PseudoLabels(labels, confidence, weight)

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        batch, targets = inputs.batch, inputs.targets
        assert targets is not None
        own, num_images = targets.take(batch.unlabeled_rows), len(targets.weight)
        rows = self.rows_to_run(model, own.weight)
        ours, logits = student_logits(model, batch, rows)
        ramp = fade_in(batch.progress, self.config.lambda_ramp)
        losses = {
            "supervised": supervised_loss(ours, batch),
            "consistency": ramp * consistency_loss(logits, own, rows, num_images),
        }
        if self.rule.weights:
            kept = own.weight if rows is None else own.weight[rows]
            sums = self.rule.statistics(logits, kept)
            whole = inputs.statistics
            if whole is None:
                whole = add_up(sums.detach().clone())
            # The value is of the global batch, the gradient is that of this share.
            part = len(batch.strong) / num_images
            for name, term in self.rule.losses(sums + (whole - sums.detach())).items():
                losses[name] = ramp * (term - term.detach() + term.detach() * part)
        return losses

    def statistics(self, model: SemiModel, inputs: LossInputs) -> Tensor:
        """Return the rule's statistics of a micro-batch's strong views."""
        assert inputs.targets is not None
        weight = inputs.targets.weight[inputs.batch.unlabeled_rows]
        rows = self.rows_to_run(model, weight)
        unlabeled = inputs.batch._replace(labeled=inputs.batch.labeled[:0])
        _, logits = student_logits(model, unlabeled, rows)
        return self.rule.statistics(logits, weight if rows is None else weight[rows])

    def rows_to_run(self, model: SemiModel, weight: Tensor) -> Tensor | None:
        """Return the rows of the strong views that the student sees; ``None``: all.

        A view with weight 0 has no gradient, so leaving it out changes nothing, unless it counts in
        BatchNorm's statistics. How many there are must be known to the host, which on a GPU stalls
        the queue.
        """
        if model.backbone.mixes_images:
            return None
        skip, device = self.config.skip_rejected, weight.device.type
        if device == "cpu" and skip != "never":
            return weight.nonzero().squeeze(1)
        if device in ("cuda", "mps") and skip == "always":
            return rows_that_count(weight)
        return None


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


def fade_in(progress: float | Tensor, ramp: float) -> float | Tensor:
    """Return ``exp(-5 (1 - progress / ramp)^2)`` in the ramp, then 1 (arXiv:1703.01780, 3.1)."""
    if isinstance(progress, Tensor):
        left = 1 - progress / ramp if ramp else progress * 0
        return (-5 * left.clamp(min=0) ** 2).exp()
    return math.exp(-5 * (1 - progress / ramp) ** 2) if progress < ramp else 1.0
