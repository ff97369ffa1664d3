"""The training loop."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from semimae.distributed import any_process, wait_for_all, world
from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.graph import GraphedStep, Recorder
from semimae.engine.optim import cosine_lr, gather_state
from semimae.engine.step import Place, TrainStep
from semimae.options.train import CellTrain, OptimConfig, Rhythm
from semimae.types import Interrupted, Step

_log = logging.getLogger(__name__)
_STEPS_BETWEEN_AGREEMENTS = 4


def train(
    state: TrainState,
    steps: Callable[[int], Step],
    config: CellTrain,
    rhythm: Rhythm,
    optim: OptimConfig,
    *,
    autocast: Callable[[], torch.autocast],
    evaluate: Callable[[TrainState], Row | None],
    on_row: Callable[[str, Row], None],
    checkpoints: Checkpoints,
    should_stop: Callable[[], bool],
    recorder: Recorder | None = None,
) -> None:
    """Train from ``state.step`` to ``config.steps``; the result is ``state``.

    Args:
        state: Model, teacher, optimizer and progress; changed in place.
        steps: The batch of any step, a pure function.
        config: Length, and decay of the moving average.
        rhythm: How often rows are logged, models are evaluated and the state is saved.
        optim: Learning rate and clipping.
        autocast: Makes the context in which the method runs.
        evaluate: Scores the state on the validation split; None if it was asked to stop, empty if
            there is nothing to score it on.
        on_row: Is told of each new row of ``state.history`` ("train") and ``validation`` ("val").
        checkpoints: Where the state is saved.
        should_stop: Asked once per step; if true, the state is saved and ``Interrupted`` raised,
            of several processes some steps later.
        recorder: Records the step, to replay it; ``None``: every step is made anew.

    Raises:
        Interrupted: When it was asked to stop.
        UserError: If more than ``rhythm.max_bad_steps`` steps in a row have a loss or gradient that
            is not finite, or all steps of the run.
    """
    most_bad = min(rhythm.max_bad_steps, config.steps - 1)  # a run of bad steps alone is no result
    clock = Clock(state)
    asked = False
    plain = TrainStep(state, optim, autocast, most_bad)
    make_step = plain if recorder is None else GraphedStep(plain, recorder)

    def add_row(kind: str, rows: list[Row], values: Row) -> None:
        rows.append({"step": state.step, **clock.now(), **values})
        on_row(kind, rows[-1])

    def save() -> None:
        clock.now()
        gather_state(state.optimizer)
        if world().rank == 0:
            checkpoints.save(state)
        wait_for_all()  # whoever continues at once must find it

    while True:
        if _evaluation_is_due(
            state, config.steps, rhythm.eval_every
        ):  # also at once, where an earlier attempt ended
            scores = evaluate(state)
            if scores is None:
                save()
                raise Interrupted(_stopped(state))
            if scores:
                add_row("val", state.validation, scores)
        if state.step >= config.steps:
            return
        clock.begin_step()
        lr = cosine_lr(
            state.step,
            lr=optim.lr,
            min_lr=optim.min_lr,
            warmup=optim.warmup_steps,
            total=config.steps,
        )
        decay = config.ema_decay
        if config.ema_warmup:  # TensorFlow's num_updates rule
            decay = min(decay, (1 + state.step) / (10 + state.step))
        with clock.waiting():
            step = steps(state.step)
        logging, observing = (
            bool(every) and state.step % every == 0
            for every in (rhythm.gradient_every, state.method.gradient_every)
        )
        place = Place(state.step + 1, lr, decay)
        state.meter.include(make_step(step, place, logging=logging, observing=observing))
        state.step += 1
        if config.compile and state.step == 1:
            _log.info("first step, with compiling: %.1f s", clock.now()["seconds"])

        last = state.step == config.steps
        if last or state.step % rhythm.log_every == 0:  # the only place where the host waits
            values = {"lr": lr, **state.meter.flush()}
            _, num_bad = state.bad_steps.check(most_bad)
            values |= {"bad_steps": float(num_bad)} if num_bad else {}
            add_row("train", state.history, values | {"data_wait": clock.share_of_waiting()})
        clock.end_step()
        asked = should_stop() or asked
        # Several processes have to agree on it, which is an exchange between all of them.
        agreeing = world().size == 1 or state.step % _STEPS_BETWEEN_AGREEMENTS == 0
        stopping = agreeing and any_process(asked)
        saving = not last and state.step % rhythm.save_every == 0
        if saving or stopping:
            bad_in_a_row, _ = state.bad_steps.check(most_bad)
            saving = stopping or not bad_in_a_row  # else what was saved before it would be dropped
        if saving:
            save()
        if stopping:
            raise Interrupted(_stopped(state))


class Clock:
    """The time that a run takes, over all its attempts, and how much of its steps is waiting."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.began = time.perf_counter() - state.seconds
        self.cpu_began = time.process_time() - state.cpu_seconds
        self.step_began = 0.0
        self.waited = self.busy = 0.0  # seconds: for data, and for steps in all, since the last row

    def now(self) -> Row:
        """Bring the state's times up to date, and return them with the time of day."""
        self.state.seconds = time.perf_counter() - self.began
        self.state.cpu_seconds = time.process_time() - self.cpu_began
        return {
            "time_ms": time.time_ns() // 1_000_000,
            "seconds": self.state.seconds,
            "cpu_seconds": self.state.cpu_seconds,
        }

    def begin_step(self) -> None:
        """Note the time."""
        self.step_began = time.perf_counter()

    def end_step(self) -> None:
        """Add what has passed since the step began."""
        now = time.perf_counter()
        self.busy += now - self.step_began
        self.step_began = now

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def share_of_waiting(self) -> float:
        """Return the share of the steps' time that was waiting for data; the next share begins."""
        self.end_step()
        share = self.waited / self.busy
        self.waited = self.busy = 0.0
        return share


def _evaluation_is_due(state: TrainState, last: int, eval_every: int) -> bool:
    done = state.validation[-1]["step"] if state.validation else 0
    return state.step > done and (state.step == last or state.step % eval_every == 0)


def _stopped(state: TrainState) -> str:
    return f"stopped after step {state.step}; the next run continues from there"
