"""The few types that every layer shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # the stages that touch no tensors start without torch
    from torch import Tensor


class UserError(Exception):
    """A mistake that the user can mend: one line with what arrived, what is allowed, what to do.

    Commands print it without a traceback and exit with code 2.
    """


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class Frozen(BaseModel):
    """Base of all configuration: immutable, strict about types, refuses unknown keys and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Batch(NamedTuple):
    """One global step's images, normalised and on the device.

    It carries no labels of the unlabelled images: a method cannot see them by construction.
    """

    labeled: Tensor  # [B, C, H, W], weak view
    labels: Tensor  # [B], class indices
    weak: Tensor  # [U, C, H, W], weak view of the unlabelled images
    strong: Tensor  # [U, C, H, W], strong view of the same images
    mask_noise: Tensor  # [U, L], uniform noise; its order decides which patches are hidden
    mix_noise: Tensor  # [U, 4], uniform noise that decides which views are mixed and how
    unlabeled_index: (
        Tensor  # [U], place of each unlabelled image among all of them, for per-image memory
    )
    progress: float  # share of the run that is done, in [0, 1)


class Step(NamedTuple):
    """A batch, and what diagnostics alone may know of it."""

    batch: Batch
    hidden_labels: Tensor  # [U], classes of the unlabelled images, -1 where unknown


class PseudoLabels(NamedTuple):
    """What a teacher says of the unlabelled images; used for training and for diagnostics."""

    labels: Tensor  # [U], class indices
    confidence: Tensor  # [U], probability of that class
    weight: Tensor  # [U], 0 where the image is left out
    other_labels: Tensor | None = None  # [U], of mixed images: the second class
    share: Tensor | None = None  # [U], of mixed images: the first class's share

    def take(self, rows: Tensor) -> PseudoLabels:
        """Return the labels of the images ``rows`` ``[K]``."""
        other = None if self.other_labels is None else self.other_labels[rows]
        share = None if self.share is None else self.share[rows]
        return PseudoLabels(
            self.labels[rows], self.confidence[rows], self.weight[rows], other, share
        )


@dataclass(frozen=True)
class StepOutput:
    """What a method returns for one batch: unweighted loss terms and scalars to log."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None
