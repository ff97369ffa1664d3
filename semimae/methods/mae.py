"""Masked image modeling alone: self-supervised pretraining."""

from collections.abc import Mapping

from torch import Tensor

from semimae.methods.base import Method, reconstruction_loss
from semimae.model import SemiModel
from semimae.types import LossInputs


class MaskedPretraining(Method):
    """Reconstruction of all images; no label is used (arXiv:2111.06377, section 3).

    The classifier stays untrained: the linear probe and k-NN score the features.
    """

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {"reconstruction": 1.0}

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        return {"reconstruction": reconstruction_loss(model, teacher, inputs.batch)}
