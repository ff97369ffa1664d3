"""What pseudo-label methods share: a threshold for all classes, and distribution alignment.

Other rules are in the files of the methods that brought them. State is held in buffers.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semimae.options.pseudo_label import FixedLabels, PseudoLabelOptions, Threshold
from semimae.types import Batch


class Rule(nn.Module):
    """Decides how much each pseudo label counts.

    Calling a rule with aligned probabilities ``[U, N]`` returns a weight per image, ``[U]``, and
    the mean threshold, a scalar to log. A rule may add loss terms of its own; they are functions
    of ``statistics``, sums over strong views that can be added up over shares of a batch.
    """

    labels_by_aligned: ClassVar[bool] = True  # whether aligned predictions also name the class

    def __init__(self, options: Any, num_classes: int, num_unlabeled: int) -> None:
        super().__init__()
        self.options, self.num_classes, self.num_unlabeled = options, num_classes, num_unlabeled

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the weights ``[U]`` and the mean threshold; take note of the predictions."""
        raise NotImplementedError

    def weigh(self, probs: Tensor, progress: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for any images ``[K, N]``, as the rule stands; nothing is noted."""
        raise NotImplementedError

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the loss terms that the rule adds."""
        return {}

    def statistics(self, logits: Tensor, weight: Tensor) -> Tensor:
        """Return sums over strong views with logits ``[K, N]`` and weights ``[K]``."""
        raise NotImplementedError

    def losses(self, statistics: Tensor) -> dict[str, Tensor]:
        """Return the loss terms that the rule adds, given the global batch's statistics."""
        raise NotImplementedError


class FixedRule(Rule):
    """A threshold that is the same for all classes: FixMatch (arXiv:2001.07685, section 2.2)."""

    options: FixedLabels

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.weigh(probs, batch.progress)

    def weigh(self, probs: Tensor, progress: float | Tensor) -> tuple[Tensor, Tensor]:
        threshold = base_threshold(self.options, progress)
        keep = probs.max(dim=-1).values >= threshold
        if not isinstance(threshold, Tensor):
            threshold = torch.full((), threshold, device=probs.device)
        return keep.float(), threshold


class Alignment(nn.Module):
    """Distribution alignment (arXiv:1911.09785, section 3.1).

    Predictions are scaled so that their running mean matches a target: the uniform distribution
    or the running class shares of the labeled batches.
    """

    mean_probs: Tensor
    target: Tensor

    def __init__(self, options: PseudoLabelOptions, num_classes: int) -> None:
        super().__init__()
        self.kind, self.pace = options.alignment, 1 - options.momentum
        uniform = torch.full((num_classes,), 1 / num_classes)
        self.register_buffer("mean_probs", uniform.clone())
        self.register_buffer("target", uniform.clone())

    def forward(self, probs: Tensor, labels: Tensor) -> Tensor:
        """Align ``probs`` ``[U, N]``; ``labels`` ``[B]`` are those of the labeled images."""
        if self.kind == "none":
            return probs
        self.mean_probs.lerp_(probs.mean(dim=0), self.pace)
        if self.kind == "labeled":
            self.target.lerp_(class_shares(labels, probs.shape[1]), self.pace)
        return self.aligned(probs)

    def aligned(self, probs: Tensor) -> Tensor:
        """Align the predictions ``[K, N]`` on any images to the running means as they are."""
        if self.kind == "none":
            return probs
        aligned = probs * (self.target + 1e-6) / (self.mean_probs + 1e-6)
        return aligned / aligned.sum(dim=-1, keepdim=True)


def base_threshold(options: Threshold, progress: float | Tensor) -> float | Tensor:
    """Return the threshold at a share of the run: linear from its start, then constant."""
    start, end, ramp = options.threshold_start, options.threshold, options.threshold_ramp
    if isinstance(progress, Tensor):
        done = (progress / ramp).clamp(max=1) if ramp else torch.ones_like(progress)
        return start + (end - start) * done
    return end if progress >= ramp else start + (end - start) * progress / ramp


def class_shares(labels: Tensor, num_classes: int, weight: Tensor | None = None) -> Tensor:
    """Return the share of each class among labels ``[K]``, ``[num_classes]``; 0 of no labels."""
    weight = torch.ones_like(labels, dtype=torch.float32) if weight is None else weight
    counts = weight.new_zeros(num_classes).scatter_add(0, labels, weight)
    return counts / counts.sum().clamp(min=1e-12)
