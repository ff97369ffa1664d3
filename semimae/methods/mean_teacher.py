"""Mean Teacher: the student's probabilities follow those of its moving average."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from semimae.methods.base import Method
from semimae.methods.pseudo import fade_in
from semimae.model import SemiModel
from semimae.types import Batch, PseudoLabels, StepOutput


class MeanTeacher(Method):
    """Mean Teacher (arXiv:1703.01780, section 2): squared error of probabilities, no threshold.

    Deviation: the student sees the strong view and the teacher the weak one, as in
    arXiv:2208.07204 (USB); the paper gives both the same kind of noise.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        assert self.options.pseudo_label is not None
        return {"supervised": 1.0, "consistency": self.options.pseudo_label.lambda_mse}

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        config = self.options.pseudo_label
        assert config is not None
        with torch.no_grad():
            targets = teacher(batch.weak).float().softmax(dim=-1)
        logits = model(torch.cat([batch.labeled, batch.strong])).float()
        labeled, strong = logits.tensor_split([len(batch.labeled)])
        ramp = fade_in(batch.progress, config.lambda_ramp)
        losses = {
            "supervised": functional.cross_entropy(labeled, batch.labels),
            "consistency": ramp * functional.mse_loss(strong.softmax(dim=-1), targets),
        }
        confidence, labels = targets.max(dim=-1)
        pseudo = PseudoLabels(labels, confidence, torch.ones_like(confidence))
        return StepOutput(losses, pseudo=pseudo)
