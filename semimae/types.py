"""Types that all layers share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # stages that do not use tensors start without torch
    from torch import Tensor


class UserError(Exception):
    """A mistake that the user can fix: one line with what arrived, what is allowed, what to do.

    Commands print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        """Keep the message as one line of printable characters.

        It may quote the name or content of a file, which must not break the line or control the
        terminal.
        """
        line = " ".join(message.split())
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))


# A path in params.yaml. Names that no file system accepts are rejected here, with their key.
PathText = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class LostProcess(Exception):
    """Another process of the run has ended. Its own output gives the reason."""


class Frozen(BaseModel):
    """Base of all configuration: immutable and strict about types, without unknown keys or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Batch(NamedTuple):
    """The images of one step, normalized and on the device: all of them, or one process's share.

    ``B`` and ``U`` are the sizes of the global batch, ``b`` and ``u`` those of the share held here.
    It contains no labels of the unlabeled images, so no method can see them.
    """

    labeled: Tensor  # [b, C, H, W], weak or strong view; may be mixed
    labels: Tensor  # [B], class indices
    weak: Tensor  # [u, C, H, W], weak view of the unlabeled images
    strong: Tensor  # [u, C, H, W], strong view of the same images
    mask_noise: Tensor  # [u, L], uniform noise; its order decides which patches are hidden
    mix_noise: Tensor  # [U, 4], uniform noise that decides which views are mixed and how
    # [U], index of each unlabeled image among all of them, for methods with per-image memory
    unlabeled_index: Tensor
    # Completed fraction of the run, in [0, 1); a scalar on the device in a CUDA graph
    progress: float | Tensor
    first_labeled: int = 0  # index of the first of ``labeled`` in the global batch
    first_unlabeled: int = 0  # index of the first of ``weak``
    accumulate: int = 1  # micro-batches over which gradients are accumulated
    targets: Tensor | None = None  # [b, N], targets of ``labeled``; None: its labels
    paths: Tensor | None = None  # [B + U, 2 * blocks], factors of the student's residual branches

    @property
    def labeled_rows(self) -> slice:
        """The indices of ``labeled`` in the global batch."""
        return slice(self.first_labeled, self.first_labeled + len(self.labeled))

    @property
    def unlabeled_rows(self) -> slice:
        """The indices of ``weak`` in the global batch."""
        return slice(self.first_unlabeled, self.first_unlabeled + len(self.weak))

    @property
    def labeled_paths(self) -> Tensor | None:
        """The rows of ``paths`` that belong to ``labeled``."""
        return None if self.paths is None else self.paths[: len(self.labels)][self.labeled_rows]

    @property
    def strong_paths(self) -> Tensor | None:
        """The rows of ``paths`` that belong to ``strong``."""
        return None if self.paths is None else self.paths[len(self.labels) :][self.unlabeled_rows]

    def micro_batches(self) -> list[Batch]:
        """Return ``accumulate`` micro-batches of about equal size."""
        if self.accumulate == 1:
            return [self]
        return [self._micro_batch(part) for part in range(self.accumulate)]

    def _micro_batch(self, part: int) -> Batch:
        labeled, unlabeled = (
            slice(count * part // self.accumulate, count * (part + 1) // self.accumulate)
            for count in (len(self.labeled), len(self.weak))
        )
        return self._replace(
            labeled=self.labeled[labeled],
            targets=None if self.targets is None else self.targets[labeled],
            weak=self.weak[unlabeled],
            strong=self.strong[unlabeled],
            mask_noise=self.mask_noise[unlabeled],
            first_labeled=self.first_labeled + labeled.start,
            first_unlabeled=self.first_unlabeled + unlabeled.start,
            accumulate=1,
        )


class Step(NamedTuple):
    """A batch, with information that only diagnostics may use."""

    batch: Batch
    # [U], classes of the unlabeled images; -1 if unknown or if the label is used for training
    hidden_labels: Tensor


class PseudoLabels(NamedTuple):
    """A teacher's predictions for the unlabeled images, for training and for diagnostics."""

    labels: Tensor  # [U], class indices
    confidence: Tensor  # [U], probability of that class
    weight: Tensor  # [U], 0 for images that are left out
    other_labels: Tensor | None = None  # [U], the second class of mixed images
    share: Tensor | None = None  # [U], the first class's share in mixed images

    def take(self, rows: Tensor | slice) -> PseudoLabels:
        """Return the labels of the images ``rows``: ``[K]``, or a slice."""
        other = None if self.other_labels is None else self.other_labels[rows]
        share = None if self.share is None else self.share[rows]
        return PseudoLabels(
            self.labels[rows], self.confidence[rows], self.weight[rows], other, share
        )


class LossInputs(NamedTuple):
    """A batch, with what its loss needs to know about the global batch."""

    batch: Batch  # its strong views are mixed if the method mixes them
    pseudo: PseudoLabels | None = None  # of the global batch, for diagnostics
    targets: PseudoLabels | None = None  # of the global batch, for training the student
    probs: Tensor | None = None  # [U, N], the teacher's probabilities, if the loss needs them
    statistics: Tensor | None = None  # the rule's statistics, if they are summed beforehand
    metrics: Mapping[str, Tensor] = MappingProxyType({})  # scalars to log

    def micro_batches(self) -> list[LossInputs]:
        """Return the same inputs for each micro-batch."""
        return [self._replace(batch=batch) for batch in self.batch.micro_batches()]
