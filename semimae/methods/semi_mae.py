"""Semi-MAE: pseudo labels, and in parallel the reconstruction of the masked weak views."""

from collections.abc import Mapping

from semimae.methods.base import Method, pseudo_label_losses
from semimae.model import SemiModel
from semimae.types import Batch, StepOutput


class SemiMAE(Method):
    """Semi-MAE (arXiv:2301.01431, abstract).

    The encoder is shared; the branch sees the weak views of the unlabelled images at a high mask
    ratio and predicts the missing pixels. What the abstract leaves open (weights, teacher,
    threshold, decoder, views) is listed with our choices in docs/method.md.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        assert self.pseudo_label is not None
        assert self.mim is not None
        return {
            "supervised": 1.0,
            "consistency": self.pseudo_label.lambda_u,
            "reconstruction": self.mim.lambda_mim,
        }

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        assert self.pseudo_label is not None
        losses, pseudo = pseudo_label_losses(self.pseudo_label, model, teacher, batch)
        losses["reconstruction"] = model.mim_loss(batch.weak, batch.mask_noise)
        return StepOutput(losses, pseudo=pseudo)
