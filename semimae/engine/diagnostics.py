"""What is measured beside the training: pseudo labels, and how the loss terms pull."""

from collections.abc import Sequence

import torch
from torch import Tensor

from semimae.engine.meter import Meter
from semimae.model import SemiModel
from semimae.types import PseudoLabels

MAX_CLASS_CURVES = 20  # more classes than this get no curve each


def measure_pseudo_labels(
    meter: Meter,
    pseudo: PseudoLabels,
    hidden_labels: Tensor,
    num_classes: int,
    counts: Tensor | None = None,
) -> None:
    """Add coverage, confidence and, where classes are known, accuracy of pseudo labels.

    ``pseudo/accuracy`` is over the images that count, weighted as they count: it is what trains
    the student. ``pseudo/accuracy_all`` is over all images: it does not depend on the threshold.
    ``pseudo/class_coverage`` is, per class, the share of all images that count as that class.

    Args:
        meter: Takes the values.
        pseudo: The labels of ``U`` images.
        hidden_labels: ``[U]``, their true classes; -1 where unknown or trained on.
        num_classes: Number of classes.
        counts: Whether the step counts, a scalar; by default it does.
    """
    counts = torch.ones_like(pseudo.weight[0]) if counts is None else counts.float()
    known = (hidden_labels >= 0).float()
    correct = (pseudo.labels == hidden_labels).float()
    used = known * pseudo.weight
    meter.add("pseudo/coverage", pseudo.weight.mean(), counts)
    meter.add("pseudo/confidence", pseudo.confidence.mean(), counts)
    meter.add("pseudo/accuracy", _ratio(correct * used, used), counts * used.sum())
    meter.add("pseudo/accuracy_all", _ratio(correct * known, known), counts * known.sum())
    if num_classes <= MAX_CLASS_CURVES:
        weights = pseudo.weight.new_zeros(num_classes).scatter_add(0, pseudo.labels, pseudo.weight)
        meter.add("pseudo/class_coverage", weights / len(pseudo.weight), counts)


def term_gradients(losses: dict[str, Tensor], model: SemiModel) -> dict[str, Tensor]:
    """Return each term's gradient in the encoder, as one vector; the graph is kept.

    The encoder is the backbone without its classifier, which the reconstruction does not reach.
    """
    classifier = set(model.backbone.classifier.parameters())
    parameters = [p for p in model.backbone.parameters() if p.requires_grad and p not in classifier]
    if not parameters:  # the classifier alone is trained
        return {name: loss.detach().new_zeros(1).float() for name, loss in losses.items()}
    gradients = {}
    for name, loss in losses.items():
        parts: Sequence[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        flat = [
            torch.zeros_like(p) if part is None else part
            for p, part in zip(parameters, parts, strict=True)
        ]
        gradients[name] = torch.cat([part.flatten().float() for part in flat])
    return gradients


def measure_gradients(meter: Meter, gradients: dict[str, Tensor]) -> None:
    """Add the norm of each term's gradient in the encoder, and how far two of them agree.

    ``gradient/cosine`` is between the consistency and the reconstruction term: above 0 the MIM
    branch moves the shared weights to where the pseudo labels pull them too.
    """
    for name, gradient in gradients.items():
        norm = gradient.norm()
        meter.add(f"gradient/{name}", norm, norm.isfinite())
    if {"consistency", "reconstruction"} <= gradients.keys():
        ours, theirs = gradients["consistency"], gradients["reconstruction"]
        product = ours.norm() * theirs.norm()
        cosine = torch.dot(ours, theirs) / product.clamp(min=1e-20)
        meter.add("gradient/cosine", cosine, (product > 0) & product.isfinite())


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part.sum() / whole.sum().clamp(min=1e-12)
