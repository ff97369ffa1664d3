"""Steps whose loss or gradient is not finite: they change nothing, and too many end the run."""

from collections.abc import Mapping

import torch
from torch import Tensor

from semimae.backbones.batch_norm import running_statistics
from semimae.methods.base import Method
from semimae.methods.memory import Memory
from semimae.model import SemiModel
from semimae.types import UserError


class BadSteps:
    """Counts of bad steps. They stay on the device, so that the host does not wait for each step.

    They are the same in all processes of a run, because losses and gradients are.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        # In a row now, longest row, all; of the row that ended the run, or else of the newest:
        # its first step, and the place in ``terms`` of what was not finite there.
        self.counts = torch.zeros(5, dtype=torch.int64, device=device)
        self.terms: list[str] = []

    def note(
        self, step: int | Tensor, losses: Mapping[str, Tensor], grad_norm: Tensor, most: int
    ) -> Tensor:
        """Take note of a step; return whether it was good, a scalar on the device.

        Args:
            step: Its number, from 1; may be a scalar on the device.
            losses: The loss terms and ``total``, scalars.
            grad_norm: Norm of the gradient of ``total``.
            most: Bad steps in a row that are allowed.
        """
        self.terms = [*(f"loss/{name}" for name in losses), "the gradient"]
        bad = ~torch.stack([*(v.float() for v in losses.values()), grad_norm.float()]).isfinite()
        any_bad = bad.any()
        row, longest, total, first, term = self.counts
        new = any_bad & (row == 0) & (longest <= most)
        row = (row + 1) * any_bad
        counts = [
            row,
            torch.maximum(row, longest),
            total + any_bad,
            torch.where(new, step, first),
            torch.where(new, bad.byte().argmax(), term),  # of equals the first
        ]
        self.counts.copy_(torch.stack(counts))  # in its place, where a CUDA graph looks for it
        return ~any_bad

    def check(self, most: int) -> tuple[int, int]:
        """Return how many steps were bad in a row until now and in all; the host waits.

        Raises:
            UserError: If there ever were more than ``most`` in a row.
        """
        row, longest, total, first, term = self.counts.tolist()
        if longest > most:
            raise UserError(
                f"step {first}: {self.terms[term]} was not finite, the first of {longest} bad "
                f"steps in a row (allowed: {most}, train.max_bad_steps and fewer than the run "
                "has); lower optim.lr or raise optim.warmup_steps. They changed no trained "
                "weight, and the last checkpoint before them is kept."
            )
        return row, total


class Undo:
    """Takes back what a bad step has moved beside the weights: a method's buffers, BatchNorm's.

    Small buffers are copied before each step; of a memory of all images only what was replaced.
    """

    def __init__(self, method: Method, model: SemiModel) -> None:
        self.memories = [part for part in method.modules() if isinstance(part, Memory)]
        large = {id(memory.values) for memory in self.memories}
        small = [buffer for buffer in method.buffers() if id(buffer) not in large]
        self.moving = [*small, *running_statistics(model)]
        self.before: list[Tensor] = []

    def begin_step(self) -> None:
        """Keep what is there."""
        self.before = [buffer.clone() for buffer in self.moving]

    def unless(self, good: Tensor) -> None:
        """Restore it, unless a scalar on the device says that the step was good."""
        for buffer, kept in zip(self.moving, self.before, strict=True):
            buffer.copy_(torch.where(good, buffer, kept))
        for memory in self.memories:
            memory.take_back(good)
