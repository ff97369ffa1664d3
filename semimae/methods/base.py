"""The contract of a method."""

from collections.abc import Mapping

from torch import Tensor, nn

from semimae.methods.config import MethodOptions
from semimae.model import SemiModel
from semimae.types import Batch, StepOutput


class Method(nn.Module):
    """Turns a batch into loss terms; state that outlives a step is held in buffers.

    A method returns *unweighted* terms; the training loop alone applies ``weights``, so that
    curves stay comparable across sweeps of the weights.
    """

    def __init__(self, options: MethodOptions, num_classes: int, num_unlabeled: int) -> None:
        """Keep the options.

        Args:
            options: The sections of params.yaml that the method reads.
            num_classes: Number of classes.
            num_unlabeled: Number of unlabelled images, for methods that remember each.
        """
        super().__init__()
        self.options, self.num_classes, self.num_unlabeled = options, num_classes, num_unlabeled

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of every loss term that ``forward`` returns."""
        raise NotImplementedError

    def forward(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> StepOutput:
        """Return loss terms, scalars to log and, where there are any, the pseudo labels.

        Args:
            model: The student, with gradients.
            teacher: The moving average of its weights; no gradients are kept.
            batch: Views of labelled and unlabelled images.
        """
        raise NotImplementedError

    def observe_validation(self, probabilities: Tensor, labels: Tensor) -> None:
        """Take note of the teacher's predictions ``[N, classes]`` on the validation split."""
