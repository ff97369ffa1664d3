"""What one training step computes: from a batch to new weights, and what is logged of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from semimae.engine.bad_steps import Undo
from semimae.engine.checkpoint import TrainState
from semimae.engine.diagnostics import measure_gradients, measure_pseudo_labels
from semimae.engine.gradients import Gradients
from semimae.engine.meter import Terms
from semimae.engine.optim import clip_gradients, ema_update, set_lr, skip_if
from semimae.options.train import OptimConfig
from semimae.types import Step


class Place(NamedTuple):
    """What follows from a step's place in the run; scalars on the device in a CUDA graph."""

    number: int | Tensor  # from 1
    lr: float | Tensor
    decay: float | Tensor  # of the moving average


class TrainStep:
    """Changes a state by one step. The host learns nothing of what the device computes."""

    def __init__(
        self,
        state: TrainState,
        optim: OptimConfig,
        autocast: Callable[[], torch.autocast],
        most_bad: int,
    ) -> None:
        """Set up.

        Args:
            state: Its tensors are changed in place; the number of steps done is left alone.
            optim: Clipping.
            autocast: Makes the context in which the method runs.
            most_bad: Bad steps in a row that are allowed.
        """
        self.state, self.optim, self.autocast, self.most_bad = state, optim, autocast, most_bad
        self.gradients = Gradients(state.model, state.method)
        self.undo = Undo(state.method, state.model)

    def __call__(
        self, step: Step, place: Place, *, logging: bool = False, observing: bool = False
    ) -> Terms:
        """Make a step.

        Args:
            step: The batch.
            place: Where in the run it is.
            logging: Whether each term's gradient is measured for the log,
            observing: and whether the method is shown it.

        Returns:
            What the meter is to include.
        """
        state, method = self.state, self.state.method
        meter = state.meter
        batch, hidden_labels = step
        set_lr(state.optimizer, place.lr)
        self.undo.begin_step()
        measured: dict[str, Tensor] | None = {} if logging or observing else None
        losses, inputs = self.gradients.compute(state.ema, batch, self.autocast, measured)
        if measured is not None and logging:
            measure_gradients(meter, measured)
        grad_norm = clip_gradients(self.gradients.parameters, self.optim.grad_clip)
        finite = state.bad_steps.note(place.number, losses, grad_norm, self.most_bad)
        good = finite.float()
        for name, weight in method.weights.items():
            if isinstance(weight, Tensor):
                meter.add(f"weight/{name}", weight.clone(), good)  # it may move in this step
        if measured is not None and observing:
            method.observe_gradients(measured)
        skip_if(state.optimizer, 1 - good)
        state.optimizer.step()
        self.undo.unless(finite)
        ema_update(state.ema, state.model, place.decay)

        for name, value in losses.items():
            meter.add(f"loss/{name}", value, good)
        for name, value in (dict(inputs.metrics) | {"grad_norm": grad_norm}).items():
            meter.add(name, value, good)
        if self.optim.grad_clip is not None:
            meter.add("clipped", grad_norm > self.optim.grad_clip, good)
        if inputs.pseudo is not None:
            measure_pseudo_labels(meter, inputs.pseudo, hidden_labels, method.num_classes, good)
        return meter.take()
