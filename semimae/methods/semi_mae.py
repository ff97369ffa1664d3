"""Semi-MAE: pseudo labels, and in parallel the reconstruction of the masked weak views."""

from collections.abc import Mapping
from dataclasses import replace

from semimae.methods.pseudo import PseudoLabelMethod
from semimae.model import SemiModel
from semimae.types import Batch, StepOutput


class SemiMAE(PseudoLabelMethod):
    """Semi-MAE (arXiv:2301.01431, abstract).

    The encoder is shared; the branch sees the weak views of the unlabelled images at a high mask
    ratio and predicts the missing pixels. What the abstract leaves open (weights, teacher,
    threshold, decoder, views) is listed with our choices in docs/method.md.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        assert self.options.mim is not None
        return {**super().weights, "reconstruction": self.options.mim.lambda_mim}

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        out = super().forward(model, teacher, batch)
        reconstruction = model.mim_loss(batch.weak, batch.mask_noise, teacher)
        return replace(out, losses={**out.losses, "reconstruction": reconstruction})
