"""Semi-MAE: pseudo labels, and in parallel the reconstruction of the masked weak views."""

from collections.abc import Mapping

import torch
from torch import Tensor

from semimae.methods.base import reconstruction_loss
from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.weighting import ReconstructionWeight
from semimae.model import SemiModel
from semimae.options.method import SemiMAEOptions
from semimae.types import LossInputs


class SemiMAE(PseudoLabelMethod):
    """Semi-MAE (arXiv:2301.01431, abstract).

    The encoder is shared; the branch sees the weak views of the unlabeled images at a high mask
    ratio and predicts the missing pixels. What the abstract leaves open (weights, teacher,
    threshold, decoder, views) is listed with our choices in docs/method.md.
    """

    options: SemiMAEOptions

    def __init__(self, options: SemiMAEOptions, num_classes: int, num_unlabeled: int) -> None:
        super().__init__(options, num_classes, num_unlabeled)
        self.reconstruction = ReconstructionWeight(options.mim.branch)
        self.gradient_every = self.reconstruction.every

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {**super().weights, "reconstruction": self.reconstruction.value}

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        reconstruction = reconstruction_loss(model, teacher, inputs.batch)
        return {**super().losses(model, teacher, inputs), "reconstruction": reconstruction}

    @torch.no_grad()
    def observe_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        self.reconstruction.observe(gradients, self.weights)
