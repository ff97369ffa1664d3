"""Running a model over a set of images."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from semimae.model import SemiModel
from semimae.types import UserError


class Outputs(NamedTuple):
    """What a model says of a set of images, on the CPU."""

    features: Tensor  # [N, D], pooled, before the classifier
    probabilities: Tensor  # [N, classes], float64
    labels: Tensor  # [N]


@torch.no_grad()
def run_model(
    model: SemiModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: Callable[[], torch.autocast],
) -> Outputs:
    """Run a model over batches of normalised images and labels.

    Raises:
        UserError: If its outputs are not finite.
    """
    parts = []
    for images, labels in batches:
        with autocast():
            features = model.backbone.features(images)
            logits = model.backbone.classify(features)
        probabilities = logits.cpu().double().softmax(dim=-1)
        parts.append((features.float().cpu(), probabilities, labels.cpu()))
    outputs = Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if not (outputs.features.isfinite().all() and outputs.probabilities.isfinite().all()):
        raise UserError(
            "the model's outputs are not finite: its training has diverged; lower optim.lr or "
            "raise optim.warmup_steps."
        )
    return outputs
