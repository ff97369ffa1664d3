"""Mean Teacher: the student's probabilities follow those of its moving average."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from semimae.losses import part_of_mean, supervised_loss
from semimae.methods.base import Method, predict, student_logits
from semimae.methods.pseudo import fade_in
from semimae.model import SemiModel
from semimae.options.method import MeanTeacherOptions
from semimae.types import Batch, LossInputs, PseudoLabels


class MeanTeacher(Method):
    """Mean Teacher (arXiv:1703.01780, section 2): squared error of probabilities, no threshold.

    Deviation: the student sees the strong view and the teacher the weak one, as in
    arXiv:2208.07204 (USB); the paper gives both the same kind of noise.
    """

    options: MeanTeacherOptions

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {"supervised": 1.0, "consistency": self.options.pseudo_label.lambda_mse}

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> LossInputs:
        probs = predict(teacher, batch, "weak")
        confidence, labels = probs.max(dim=-1)
        pseudo = PseudoLabels(labels, confidence, torch.ones_like(confidence))
        return LossInputs(batch, pseudo, probs=probs)

    def label_validation(self, student: Tensor, teacher: Tensor, progress: float) -> PseudoLabels:
        """Label all images by the average; there is no threshold."""
        confidence, labels = teacher.max(dim=-1)
        return PseudoLabels(labels, confidence, torch.ones_like(confidence))

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        batch, probs = inputs.batch, inputs.probs
        assert probs is not None
        ours, strong = student_logits(model, batch)
        error = functional.mse_loss(strong.float().softmax(dim=-1), probs[batch.unlabeled_rows])
        error = part_of_mean(error, len(batch.strong), len(probs))
        return {
            "supervised": supervised_loss(ours, batch),
            "consistency": fade_in(batch.progress, self.options.pseudo_label.lambda_ramp) * error,
        }
