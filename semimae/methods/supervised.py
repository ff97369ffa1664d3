"""The baseline: labelled images only."""

from collections.abc import Mapping

from torch.nn import functional

from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.types import Batch, StepOutput


class Supervised(Method):
    """Cross-entropy of the weak views of the labelled images."""

    @property
    def weights(self) -> Mapping[str, float]:
        return {"supervised": 1.0}

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        logits = model(batch.labeled)
        return StepOutput({"supervised": functional.cross_entropy(logits.float(), batch.labels)})
