"""The training loop."""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from semimae.distributed import any_process, wait_for_all, world
from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.config import OptimConfig, TrainConfig
from semimae.engine.diagnostics import measure_gradients, measure_pseudo_labels
from semimae.engine.gradients import Gradients
from semimae.engine.optim import cosine_lr, ema_update, gather_state, set_lr, skip_if
from semimae.types import Interrupted, Step

_log = logging.getLogger(__name__)


def train(
    state: TrainState,
    steps: Callable[[int], Step],
    config: TrainConfig,
    optim: OptimConfig,
    *,
    autocast: Callable[[], torch.autocast],
    evaluate: Callable[[TrainState], Row | None],
    on_row: Callable[[str, Row], None],
    checkpoints: Checkpoints,
    should_stop: Callable[[], bool],
) -> None:
    """Train from ``state.step`` to ``config.steps``; the result is ``state``.

    Args:
        state: Model, teacher, optimizer and progress; changed in place.
        steps: The batch of any step, a pure function.
        config: Length and rhythm.
        optim: Learning rate and clipping.
        autocast: Makes the context in which the method runs.
        evaluate: Scores the state on the validation split; None if it was asked to stop.
        on_row: Is told of each new row of ``state.history`` ("train") and ``validation`` ("val").
        checkpoints: Where the state is saved.
        should_stop: Asked once per step; if true, the state is saved and ``Interrupted`` raised.

    Raises:
        Interrupted: When it was asked to stop.
        UserError: If more than ``config.max_bad_steps`` steps in a row have a loss or gradient that
            is not finite, or all steps of the run.
    """
    model, method, optimizer, meter = state.model, state.method, state.optimizer, state.meter
    gradients = Gradients(model, method)
    most_bad = min(config.max_bad_steps, config.steps - 1)  # a run of bad steps alone is no result
    started = time.perf_counter() - state.seconds
    cpu_started = time.process_time() - state.cpu_seconds
    waited = busy = 0.0  # seconds: for data, and for steps in all, since the last row

    def measure_time() -> None:
        state.seconds = time.perf_counter() - started
        state.cpu_seconds = time.process_time() - cpu_started

    def add_row(kind: str, rows: list[Row], values: Row) -> None:
        measure_time()
        clock = {"seconds": state.seconds, "cpu_seconds": state.cpu_seconds}
        now = {"time_ms": time.time_ns() // 1_000_000}
        rows.append({"step": state.step, **now, **clock, **values})
        on_row(kind, rows[-1])

    def save() -> None:
        measure_time()
        gather_state(optimizer)
        if world().rank == 0:
            checkpoints.save(state)
        wait_for_all()  # whoever continues at once must find it

    while True:
        if _evaluation_is_due(state, config):  # also at once, where an earlier attempt ended
            scores = evaluate(state)
            if scores is None:
                save()
                raise Interrupted(_stopped(state))
            add_row("val", state.validation, scores)
        if state.step >= config.steps:
            return
        began = time.perf_counter()
        lr = cosine_lr(
            state.step,
            lr=optim.lr,
            min_lr=optim.min_lr,
            warmup=optim.warmup_steps,
            total=config.steps,
        )
        set_lr(optimizer, lr)
        asked = time.perf_counter()
        batch, hidden_labels = steps(state.step)
        waited += time.perf_counter() - asked
        measuring = config.gradient_every and state.step % config.gradient_every == 0
        measured: dict[str, Tensor] | None = {} if measuring else None
        before = [buffer.clone() for buffer in method.buffers()]
        losses, labeled = gradients.compute(state.ema, batch, autocast, measured)
        if measured is not None:
            measure_gradients(meter, measured)
        grad_norm = clip_grad_norm_(gradients.parameters, optim.grad_clip)
        finite = state.bad_steps.note(state.step + 1, losses, grad_norm, most_bad)
        skip_if(optimizer, (~finite).float())
        optimizer.step()
        for buffer, kept in zip(method.buffers(), before, strict=True):  # running means, memories
            buffer.copy_(torch.where(finite, buffer, kept))
        # The average forgets its random start early on, as in TensorFlow's num_updates rule.
        ema_update(state.ema, model, min(config.ema_decay, (1 + state.step) / (10 + state.step)))
        if config.compile and not busy and not state.history:
            _log.info("first step, with compiling: %.1f s", time.perf_counter() - began)
        state.step += 1

        for name, value in losses.items():
            meter.add(f"loss/{name}", value, finite)
        for name, value in (dict(labeled.metrics) | {"grad_norm": grad_norm}).items():
            meter.add(name, value, finite)
        if labeled.pseudo is not None:
            measure_pseudo_labels(meter, labeled.pseudo, hidden_labels, method.num_classes, finite)

        last = state.step == config.steps
        if last or state.step % config.log_every == 0:  # the only place where the host waits
            values = {"lr": lr, **meter.flush()}
            _, num_bad = state.bad_steps.check(most_bad)
            values |= {"bad_steps": float(num_bad)} if num_bad else {}
            busy += time.perf_counter() - began
            add_row("train", state.history, values | {"data_wait": waited / busy})
            waited = busy = 0.0
        else:
            busy += time.perf_counter() - began
        stopping = any_process(should_stop())
        saving = not last and state.step % config.save_every == 0
        if saving or stopping:
            bad_in_a_row, _ = state.bad_steps.check(most_bad)
            saving = stopping or not bad_in_a_row  # else what was saved before it would be dropped
        if saving:
            save()
        if stopping:
            raise Interrupted(_stopped(state))


def _evaluation_is_due(state: TrainState, config: TrainConfig) -> bool:
    done = state.validation[-1]["step"] if state.validation else 0
    last = state.step == config.steps
    return state.step > done and (last or state.step % config.eval_every == 0)


def _stopped(state: TrainState) -> str:
    return f"stopped after step {state.step}; the next run continues from there"
