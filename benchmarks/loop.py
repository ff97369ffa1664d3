"""The training loop as it runs, timed from inside: it asks after each step whether to stop."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import clock
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.fit import fit
from semimae.options.cell import Cell
from semimae.options.train import Rhythm
from semimae.types import Interrupted

PROFILED = 3  # steps


def trained(
    cell: Cell,
    data: tuple[Prepared, Split],
    folder: Path,
    note: Any = lambda: False,
    log_every: int = 1,
    save_every: int | None = None,
) -> TrainState:
    """Train a cell of one phase; ``note`` is called after each step and may stop it."""
    steps = cell.train.steps
    rhythm = Rhythm(
        eval_every=steps,
        log_every=log_every,
        save_every=save_every or steps,
        gradient_every=0,
        max_bad_steps=steps,
    )
    return fit(
        cell,
        *data,
        rhythm,
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=note,
    )


def trained_rows(
    cell: Cell,
    data: tuple[Prepared, Split],
    rhythm: Rhythm,
    folder: Path,
    keep: Callable[[str, Row], None],
    end: float,
) -> None:
    """Train a cell until it is done or the time of day is ``end``; ``keep`` is told of each row."""
    with contextlib.suppress(Interrupted):
        fit(
            cell,
            *data,
            rhythm,
            checkpoints=Checkpoints(folder),
            on_row=keep,
            should_stop=lambda: time.time() > end,
        )


def with_steps(cell: Cell, steps: int) -> Cell:
    """Return a cell with another length, whose learning rate does not warm up."""
    train = cell.train.model_copy(update={"steps": steps})
    optim = cell.optim.model_copy(update={"warmup_steps": 0})
    return cell.model_copy(update={"train": train, "optim": optim})


class Windows:
    """Is called after each step: times some windows of equal length, then profiles a few steps."""

    def __init__(self, device: torch.device, warm_up: int, rounds: int, steps: int) -> None:
        self.device, self.warm_up, self.steps = device, warm_up, steps
        self.timed = warm_up + rounds * steps
        self.total = self.timed + PROFILED
        self.done = 0
        self.began = clock(device)
        self.first = 0.0  # seconds of the first step
        self.seconds: list[float] = []  # of a step, per window
        self.profile: dict[str, Any] = {}
        self.open = contextlib.ExitStack()

    def __call__(self) -> bool:
        """Take note of a step; never ask to stop."""
        self.done += 1
        if self.done == 1:
            self.first = clock(self.device) - self.began
        if self.done <= self.timed and (self.done - self.warm_up) % self.steps == 0:
            now = clock(self.device)
            if self.done > self.warm_up:
                self.seconds.append((now - self.began) / self.steps)
            self.began = now
        if self.done == self.timed:
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self.profiler = self.open.enter_context(profile(activities=activities))
            self.profiled_from = time.perf_counter()
        if self.done == self.total:
            clock(self.device)
            wall = time.perf_counter() - self.profiled_from
            self.open.close()
            self.profile = summary(self.profiler, wall)
        return False


def summary(profiler: profile, wall: float) -> dict[str, Any]:
    """Return launches per step, the share of the time that the GPU was busy, and what took it."""
    events = list(profiler.events() or ())
    on_device = [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    busy, end = 0.0, float("-inf")
    for event in sorted(on_device, key=lambda event: event.time_range.start):
        start = max(event.time_range.start, end)
        end = max(end, event.time_range.end)
        busy += max(0.0, end - start)
    times: dict[str, float] = {}
    for event in on_device:
        times[event.name[:80]] = times.get(event.name[:80], 0.0) + event.time_range.elapsed_us()
    most = sorted(times.items(), key=lambda item: -item[1])[:12]
    return {
        "launches": len(on_device) / PROFILED,
        "operations": sum(event.name.startswith("aten::") for event in events) / PROFILED,
        "busy": busy / 1e6 / wall if on_device else None,
        "most": {name: us / 1e6 / PROFILED for name, us in most},
    }


def measure_loop(
    cell: Cell, data: tuple[Prepared, Split], device: torch.device, *, rounds: int, steps: int
) -> dict[str, Any]:
    """Train for some steps and return what one takes, and what it consists of."""
    windows = Windows(device, max(3, steps // 2), rounds, steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        cell = with_steps(cell, windows.total)
        state = trained(cell, data, Path(folder), windows, log_every=steps)
    seconds = statistics.median(windows.seconds)
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {
        "batch": [cell.train.batch_size, cell.num_unlabeled],
        "seconds": seconds,
        "windows": windows.seconds,
        "first_step": windows.first,
        "unlabeled_per_second": cell.num_unlabeled / seconds,
        "data_wait": statistics.median(row["data_wait"] for row in state.history),
        "peak_memory_mib": memory,
        "loss": state.history[-1]["loss/total"],
        "profile": windows.profile,
    }
