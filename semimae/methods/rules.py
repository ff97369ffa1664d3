"""Rules that decide how much each pseudo label counts. State is held in buffers."""

import torch
from torch import Tensor, nn

from semimae.methods.config import PseudoLabelConfig
from semimae.types import Batch


class Rule(nn.Module):
    """A threshold that is the same for all classes: FixMatch (arXiv:2001.07685, section 2.2).

    Calling a rule with aligned probabilities ``[U, N]`` returns a weight per image, ``[U]``.
    """

    def __init__(self, config: PseudoLabelConfig, num_classes: int, num_unlabeled: int) -> None:
        super().__init__()
        self.config, self.num_classes, self.num_unlabeled = config, num_classes, num_unlabeled

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the weights ``[U]`` and the mean threshold, a scalar to log."""
        threshold = base_threshold(self.config, batch.progress)
        keep = probs.max(dim=-1).values >= threshold
        return keep.float(), probs.new_tensor(threshold)


class FlexRule(Rule):
    """Class-wise thresholds that follow how much of each class has been learned.

    Source: arXiv:2110.08263 (FlexMatch), equations 5 to 11: a class's status is the number of
    images whose latest confident prediction is that class; with the paper's threshold warm-up and
    its convex mapping ``x / (2 - x)``.
    """

    latest: Tensor

    def __init__(self, config: PseudoLabelConfig, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(config, num_classes, num_unlabeled)
        self.register_buffer("latest", torch.full((num_unlabeled,), num_classes))  # none yet

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        base = base_threshold(self.config, batch.progress)
        confidence, labels = probs.max(dim=-1)
        # scatter_add rather than bincount: no wait for the device
        status = probs.new_zeros(self.num_classes + 1)
        status = status.scatter_add(0, self.latest, torch.ones_like(self.latest, dtype=probs.dtype))
        share = status[:-1] / status.max().clamp(min=1)  # the last entry counts images without one
        thresholds = base * share / (2 - share)
        write(self.latest, batch.unlabeled_index, labels, confidence >= base)
        return (confidence >= thresholds[labels]).float(), thresholds.mean()


class FreeRule(Rule):
    """Global and class-wise thresholds from running means of confidence.

    Source: arXiv:2205.07246 (FreeMatch), equations 5 to 8. ``fairness`` is its equation 11.
    """

    confidence: Tensor
    mean_probs: Tensor
    histogram: Tensor

    def __init__(self, config: PseudoLabelConfig, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(config, num_classes, num_unlabeled)
        uniform = torch.full((num_classes,), 1 / num_classes)
        self.register_buffer("confidence", uniform[0].clone())
        self.register_buffer("mean_probs", uniform.clone())
        self.register_buffer("histogram", uniform.clone())

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        confidence, labels = probs.max(dim=-1)
        pace = 1 - self.config.momentum
        self.confidence.lerp_(confidence.mean(), pace)
        self.mean_probs.lerp_(probs.mean(dim=0), pace)
        self.histogram.lerp_(class_shares(labels, self.num_classes), pace)
        thresholds = self.confidence * self.mean_probs / self.mean_probs.max()
        return (confidence >= thresholds[labels]).float(), thresholds.mean()

    def class_sums(self, logits: Tensor, weight: Tensor) -> Tensor:
        """Return sums over strong views ``[K, N]`` with weights ``[K]``, per class, ``[2, N]``.

        The first row is of their probabilities, with gradient, the second counts predictions.
        """
        probs = logits.float().softmax(dim=-1)
        counts = weight.new_zeros(self.num_classes).scatter_add(0, probs.argmax(dim=-1), weight)
        return torch.stack([(probs * weight.unsqueeze(1)).sum(dim=0), counts])

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


class SoftRule(Rule):
    """Weights from a truncated Gaussian instead of a threshold.

    Source: arXiv:2301.10921 (SoftMatch), equations 5 to 7, with its published width (two standard
    deviations).
    """

    mean: Tensor
    var: Tensor

    def __init__(self, config: PseudoLabelConfig, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(config, num_classes, num_unlabeled)
        self.register_buffer("mean", torch.tensor(1 / num_classes))
        self.register_buffer("var", torch.tensor(1.0))

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        confidence = probs.max(dim=-1).values
        pace = 1 - self.config.momentum
        self.mean.lerp_(confidence.mean(), pace)
        if len(confidence) > 1:
            self.var.lerp_(confidence.var(), pace)
        below = (confidence - self.mean).clamp(max=0)
        width = (2 * self.var / 4).clamp(min=1e-12)  # all may be equally confident
        return (-below.square() / width).exp(), self.mean.clone()


class Alignment(nn.Module):
    """Distribution alignment (arXiv:1911.09785, section 3.1).

    Predictions are scaled so that their running mean matches a target: the uniform distribution
    or the running class shares of the labeled batches.
    """

    mean_probs: Tensor
    target: Tensor

    def __init__(self, config: PseudoLabelConfig, num_classes: int) -> None:
        super().__init__()
        self.kind, self.pace = config.alignment, 1 - config.momentum
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
        aligned = probs * (self.target + 1e-6) / (self.mean_probs + 1e-6)
        return aligned / aligned.sum(dim=-1, keepdim=True)


def base_threshold(config: PseudoLabelConfig, progress: float) -> float:
    """Return the threshold at a share of the run: linear from its start, then constant."""
    start, end, ramp = config.threshold_start, config.threshold, config.threshold_ramp
    return end if progress >= ramp else start + (end - start) * progress / ramp


def write(memory: Tensor, index: Tensor, values: Tensor, wanted: Tensor) -> None:
    """Write ``values`` ``[U]`` at ``index`` ``[U]`` of ``memory`` ``[M]`` where ``wanted`` ``[U]``.

    An image can be in a batch more than once. Of its values the first wanted one is written, on
    every device; ``index_copy_`` would write any of them.
    """
    count = len(index)
    places = torch.where(wanted, torch.arange(count, device=index.device), count)
    first = index.new_full((len(memory),), count).scatter_reduce(0, index, places, "amin")
    chosen = values[first.clamp(max=count - 1)]
    memory.copy_(torch.where(first < count, chosen, memory))


def class_shares(labels: Tensor, num_classes: int, weight: Tensor | None = None) -> Tensor:
    """Return the share of each class among labels ``[K]``, ``[num_classes]``; 0 of no labels."""
    weight = torch.ones_like(labels, dtype=torch.float32) if weight is None else weight
    counts = weight.new_zeros(num_classes).scatter_add(0, labels, weight)
    return counts / counts.sum().clamp(min=1e-12)


RULES: dict[str, type[Rule]] = {"fixed": Rule, "flex": FlexRule, "free": FreeRule, "soft": SoftRule}
