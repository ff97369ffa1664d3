"""The contract of a method and what pseudo-label methods share."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semimae.losses import consistency_loss, pseudo_label
from semimae.methods.config import PseudoLabelConfig
from semimae.mim.config import MIMConfig
from semimae.model import SemiModel
from semimae.types import Batch, PseudoLabels, StepOutput


class Method(nn.Module):
    """Turns a batch into loss terms; state that outlives a step is held in buffers.

    A method returns *unweighted* terms; the training loop alone applies ``weights``, so that
    curves stay comparable across sweeps of the weights.
    """

    def __init__(
        self, pseudo_label: PseudoLabelConfig | None, mim: MIMConfig | None, num_classes: int
    ) -> None:
        super().__init__()
        self.pseudo_label, self.mim, self.num_classes = pseudo_label, mim, num_classes

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of every loss term that ``forward`` returns."""
        raise NotImplementedError

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        """Return loss terms, scalars to log and, where there are any, the pseudo labels.

        Args:
            model: The student, with gradients.
            teacher: The moving average of its weights; no gradients are kept.
            batch: Views of labelled and unlabelled images.
        """
        raise NotImplementedError


def teacher_labels(
    config: PseudoLabelConfig, model: SemiModel, teacher: SemiModel, batch: Batch
) -> PseudoLabels:
    """Label the weak views without gradient, by the teacher that ``config`` names."""
    with torch.no_grad():
        logits = (teacher if config.teacher == "ema" else model)(batch.weak)
    return pseudo_label(logits, config.threshold)


def student_logits(
    model: SemiModel, batch: Batch, pseudo: PseudoLabels, skip_rejected: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run labelled and strong views in one pass.

    A view with weight 0 has no gradient, so leaving it out changes nothing. Its index must be
    known to the host, which on a GPU would stall the queue; there all views are run.

    Returns:
        Logits of the labelled views, of the strong views, and the rows of the strong views that
        were run (``None``: all).
    """
    strong, rows = batch.strong, None
    if skip_rejected and strong.device.type == "cpu":
        rows = pseudo.weight.nonzero().squeeze(1)
        strong = strong[rows]
    logits = model(torch.cat([batch.labeled, strong]))
    labeled, unlabeled = logits.tensor_split([batch.labeled.shape[0]])
    return labeled, unlabeled, rows


def pseudo_label_losses(
    config: PseudoLabelConfig, model: SemiModel, teacher: SemiModel, batch: Batch
) -> tuple[dict[str, Tensor], PseudoLabels]:
    """Return the terms ``supervised`` and ``consistency``, and the pseudo labels behind them."""
    pseudo = teacher_labels(config, model, teacher, batch)
    labeled, strong, rows = student_logits(model, batch, pseudo, config.skip_rejected)
    losses = {
        "supervised": nn.functional.cross_entropy(labeled.float(), batch.labels),
        "consistency": consistency_loss(strong, pseudo, rows),
    }
    return losses, pseudo
