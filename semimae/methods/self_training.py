"""Self-training: teachers have labeled all unlabeled images once, and the student learns them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from semimae.losses import supervised_loss
from semimae.methods.base import Method, student_logits
from semimae.methods.pseudo import fade_in
from semimae.model import SemiModel
from semimae.options.method import SelfTrainingOptions
from semimae.types import Batch, LossInputs, PseudoLabels


class SelfTraining(Method):
    """Offline pseudo labels from one teacher or an ensemble (arXiv:2503.09707, V-PET).

    The student starts from the run's starting weights, not from a teacher, and sees strong views
    of the unlabeled images. With ``ensemble: votes`` its target is the mean of the teachers'
    one-hot labels. The labeled images are a term of the loss too, as in all methods here.
    """

    options: SelfTrainingOptions

    def __init__(self, options: SelfTrainingOptions, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.config = options.self_training
        per_image = len(self.config.teachers) if self.config.ensemble == "votes" else 1
        # Of each unlabeled image: the labels that it is trained on, the ensemble's own, how sure.
        self.register_buffer("votes", torch.zeros(num_unlabeled, per_image, dtype=torch.int64))
        self.register_buffer("labels", torch.zeros(num_unlabeled, dtype=torch.int64))
        self.register_buffer("confidence", torch.full((num_unlabeled,), 1 / num_classes))

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {"supervised": 1.0, "consistency": self.options.pseudo_label.lambda_u}

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> LossInputs:
        """Look the batch's pseudo labels up."""
        rows = batch.unlabeled_index
        confidence = self.confidence[rows]  # type: ignore[index]
        weight = (confidence >= self.config.threshold).to(confidence.dtype)
        return LossInputs(batch, PseudoLabels(self.labels[rows], confidence, weight))  # type: ignore[index]

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        batch, pseudo = inputs.batch, inputs.pseudo
        assert pseudo is not None
        logits, strong = student_logits(model, batch)
        own = batch.unlabeled_rows
        votes = self.votes[batch.unlabeled_index[own]]  # type: ignore[index]  # [u, teachers]
        log_probs = functional.log_softmax(strong.float(), dim=-1)
        loss = -log_probs.gather(1, votes).mean(dim=1)  # [u]
        ramp = fade_in(batch.progress, self.options.pseudo_label.lambda_ramp)
        consistency = torch.dot(loss, pseudo.weight[own]) / len(pseudo.weight)
        return {"supervised": supervised_loss(logits, batch), "consistency": ramp * consistency}
