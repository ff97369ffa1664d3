"""Semi-MAE: pseudo labels, and in parallel the reconstruction of the masked weak views."""

from collections.abc import Mapping

from torch import Tensor

from semimae.methods.base import reconstruction_loss
from semimae.methods.pseudo import PseudoLabelMethod
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

    @property
    def weights(self) -> Mapping[str, float]:
        return {**super().weights, "reconstruction": self.options.mim.branch.lambda_mim}

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        reconstruction = reconstruction_loss(model, teacher, inputs.batch)
        return {**super().losses(model, teacher, inputs), "reconstruction": reconstruction}
