"""The baseline: labeled images only."""

from collections.abc import Mapping

from torch import Tensor

from semimae.losses import supervised_loss
from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.types import LossInputs


class Supervised(Method):
    """Cross-entropy of the views of the labeled images."""

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        return {"supervised": 1.0}

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        logits = model(inputs.batch.labeled, inputs.batch.labeled_paths)
        return {"supervised": supervised_loss(logits, inputs.batch)}
