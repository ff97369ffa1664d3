"""FixMatch: confident predictions on weak views label the strong views."""

from collections.abc import Mapping

from semimae.methods.base import Method, pseudo_label_losses
from semimae.model import SemiModel
from semimae.types import Batch, StepOutput


class FixMatch(Method):
    """FixMatch (arXiv:2001.07685, algorithm 1).

    Deviation: the pseudo labels may come from the moving average of the weights
    (``pseudo_label.teacher: ema``, as in arXiv:2208.05688); the paper's own choice is ``student``.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        assert self.pseudo_label is not None
        return {"supervised": 1.0, "consistency": self.pseudo_label.lambda_u}

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        assert self.pseudo_label is not None
        losses, pseudo = pseudo_label_losses(self.pseudo_label, model, teacher, batch)
        return StepOutput(losses, pseudo=pseudo)
