"""Masked image modelling alone: self-supervised pretraining."""

from collections.abc import Mapping

from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.types import Batch, StepOutput


class MaskedPretraining(Method):
    """Reconstruction of all images; no label is used (arXiv:2111.06377, section 3).

    The classifier stays untrained: the linear probe and k-NN score the features.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        return {"reconstruction": 1.0}

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        return StepOutput({"reconstruction": model.mim_loss(batch.weak, batch.mask_noise, teacher)})
