"""SSMAE: pseudo labels need two agreeing views and an open gate; all images are reconstructed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from semimae.losses import consistency_loss, supervised_loss
from semimae.methods.base import Method, predict, reconstruction_loss, student_logits
from semimae.methods.memory import Memory
from semimae.methods.pseudo import fade_in
from semimae.methods.rules import base_threshold
from semimae.methods.weighting import ReconstructionWeight
from semimae.model import SemiModel
from semimae.options.method import SSMAEOptions
from semimae.types import Batch, LossInputs, PseudoLabels


class SSMAE(Method):
    """SSMAE (arXiv:2601.20072, section 3).

    A pseudo label is accepted if the predictions on the weak and on the strong view agree and both
    reach the threshold, and is then kept for the run. Nothing is accepted before the gate opens:
    when confident predictions on the validation split are accurate enough.

    Deviations: the gate looks at a validation split taken from the training data (the released code
    used the test set); the labels come from the moving average; the loss is taken on strong views;
    the reconstruction is of the weak views of the unlabeled images, which include the labeled
    ones where ``data.include_labeled``.
    """

    options: SSMAEOptions
    gate: Tensor

    def __init__(self, options: SSMAEOptions, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.register_buffer("gate", torch.zeros(()))  # 1: open
        self.memory = Memory(num_unlabeled, -1)  # the accepted label; -1: none yet
        self.reconstruction = ReconstructionWeight(options.mim.branch)
        self.gradient_every = self.reconstruction.every

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {
            "supervised": 1.0,
            "consistency": self.options.pseudo_label.lambda_u,
            "reconstruction": self.reconstruction.value,
        }

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> LossInputs:
        pseudo = self.accept(teacher, batch)
        metrics = {"pseudo/gate": self.gate.clone()}
        return LossInputs(batch, pseudo, targets=pseudo, metrics=metrics)

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        config, batch, targets = self.options.pseudo_label, inputs.batch, inputs.targets
        assert targets is not None
        ours, strong = student_logits(model, batch)
        own = targets.take(batch.unlabeled_rows)
        return {
            "supervised": supervised_loss(ours, batch),
            "consistency": fade_in(batch.progress, config.lambda_ramp)
            * consistency_loss(strong, own, num_images=len(targets.weight)),
            "reconstruction": reconstruction_loss(model, teacher, batch),
        }

    @torch.no_grad()
    def accept(self, teacher: SemiModel, batch: Batch) -> PseudoLabels:
        """Label the images of a batch and remember the labels that are accepted."""
        config, options = self.options.pseudo_label, self.options.ssmae
        threshold = base_threshold(config, batch.progress)
        weak, strong = predict(teacher, batch, "weak", "strong")
        (confidence, labels), (sure, same) = weak.max(dim=-1), strong.max(dim=-1)
        agree = (labels == same) & (torch.minimum(confidence, sure) >= threshold)
        accepted = agree & (self.gate > 0) & (batch.progress >= options.gate_start)
        if options.memory:
            remembered = self.memory.values[batch.unlabeled_index]
            known = remembered >= 0
            labels = torch.where(known, remembered, labels)
            self.memory.write(batch.unlabeled_index, labels, accepted & ~known)
            accepted = accepted | known
        return PseudoLabels(labels, confidence, accepted.float())

    def label_validation(self, student: Tensor, teacher: Tensor, progress: float) -> PseudoLabels:
        """Label as the gate does: by confidence on one view, whether or not it is open."""
        confidence, labels = teacher.max(dim=-1)
        threshold = base_threshold(self.options.pseudo_label, progress)
        return PseudoLabels(labels, confidence, (confidence >= threshold).to(confidence))

    def observe_validation(self, probabilities: Tensor, labels: Tensor) -> None:
        config, options = self.options.pseudo_label, self.options.ssmae
        confidence, predicted = probabilities.max(dim=-1)
        sure = confidence >= config.threshold
        accuracy = (predicted == labels)[sure].float().mean() if sure.any() else torch.zeros(())
        self.gate.fill_(float(accuracy >= options.gate_accuracy))

    @torch.no_grad()
    def observe_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        self.reconstruction.observe(gradients, self.weights)
