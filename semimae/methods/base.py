"""The contract of a method."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semimae.distributed import gather_rows
from semimae.losses import part_of_mean
from semimae.model import SemiModel
from semimae.options.method_base import MethodOptions
from semimae.types import Batch, LossInputs, PseudoLabels


class Method(nn.Module):
    """Turns a batch into loss terms; state that outlives a step is held in buffers.

    A method returns *unweighted* terms; the training loop alone applies ``weights``, so that
    curves stay comparable across sweeps of the weights.
    """

    gradient_every = 0  # steps between two calls of ``observe_gradients``; 0: never

    def __init__(self, options: MethodOptions, num_classes: int, num_unlabeled: int) -> None:
        """Keep the options.

        Args:
            options: What the method reads of params.yaml.
            num_classes: Number of classes.
            num_unlabeled: Number of unlabeled images, for methods that remember each.
        """
        super().__init__()
        self.options, self.num_classes, self.num_unlabeled = options, num_classes, num_unlabeled

    @property
    def weights(self) -> Mapping[str, float | Tensor]:
        """Weight of every loss term that ``losses`` returns; one that moves is a scalar tensor."""
        raise NotImplementedError

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> LossInputs:
        """Look at the whole global batch without gradient, and move what outlives the step.

        Args:
            model: The student.
            teacher: The moving average of its weights.
            batch: Views of labeled and unlabeled images.
        """
        return LossInputs(batch)

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the loss terms of a share of the global batch.

        Over all shares they, and their gradients, add up to those of the global batch.

        Args:
            model: The student, with gradients.
            teacher: The moving average of its weights; no gradients are kept.
            inputs: What ``label`` made of the batch, or one of its micro-batches.
        """
        raise NotImplementedError

    def label_validation(
        self, student: Tensor, teacher: Tensor, progress: float
    ) -> PseudoLabels | None:
        """Return the pseudo labels that validation images would have, by predictions on them.

        Their classes are known and never trained on, so they tell how right pseudo labels are.
        Nothing that outlives the call may change.

        Args:
            student: Probabilities ``[N, classes]`` on whole images.
            teacher: The same of the moving average.
            progress: Share of the run that is done.

        Returns:
            ``None`` if the method makes no pseudo labels.
        """
        return None

    def observe_validation(self, probabilities: Tensor, labels: Tensor) -> None:
        """Take note of the teacher's predictions ``[N, classes]`` on the validation split."""

    @torch.no_grad()
    def observe_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Take note of each unweighted term's gradient in the encoder, of the global batch."""


def student_logits(
    model: SemiModel, batch: Batch, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the labeled and the strong views of a share in one pass, each on its own paths.

    Args:
        model: The student.
        batch: The share.
        rows: The strong views that are run; ``None``: all.

    Returns:
        Logits of the labeled and of the strong views.
    """
    strong, paths = batch.strong, batch.strong_paths
    if rows is not None:
        strong, paths = strong[rows], None if paths is None else paths[rows]
    if paths is not None and batch.labeled_paths is not None:
        paths = torch.cat([batch.labeled_paths, paths])
    logits = model(torch.cat([batch.labeled, strong]), paths)
    ours, theirs = logits.tensor_split([len(batch.labeled)])
    return ours, theirs


def predict(model: SemiModel, batch: Batch, *views: str) -> Tensor:
    """Return probabilities ``[U, N]`` of views of the global batch's unlabeled images.

    Several views (fields of the batch) share a pass and come as ``[views, U, N]``. The model is as
    in its evaluation, so that it predicts for each image alone and nothing of it changes.
    """
    training = model.training
    model.eval()
    parts = [
        model(torch.cat([getattr(micro, v) for v in views])).float().softmax(dim=-1)
        for micro in batch.micro_batches()
    ]
    model.train(training)
    # Rows first, [u, views, N], to lay shares of the batch one after the other.
    rows = [
        part.reshape(len(views), len(part) // len(views), part.shape[1]).transpose(0, 1)
        for part in parts
    ]
    whole = gather_rows(torch.cat(rows), batch.first_unlabeled, len(batch.unlabeled_index))
    return whole.transpose(0, 1).contiguous().squeeze(0)


def reconstruction_loss(model: SemiModel, teacher: SemiModel, batch: Batch) -> Tensor:
    """Return the share that the batch's weak views have in the reconstruction term."""
    if not len(batch.weak):  # an empty share
        return batch.weak.new_zeros(())
    loss = model.mim_loss(batch.weak, batch.mask_noise, teacher)
    return part_of_mean(loss, len(batch.weak), len(batch.unlabeled_index))
