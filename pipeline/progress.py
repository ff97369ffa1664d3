"""Progress of long stages: a bar on a terminal, and a file for whoever watches several of them."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from pipeline.noted import STATUS, write_status

QUIET = "SEMIMAE_QUIET"  # in the environment: no bars
EVERY = 60.0  # seconds between two lines where the output is not a terminal
_STATUS_EVERY = 1.0  # seconds between two notes for whoever watches

_SHOWN = {
    "loss/total": "loss",
    "loss/reconstruction": "mim",
    "pseudo/coverage": "used",
    "pseudo/accuracy": "right",  # of unlabeled images whose class is known after all
    "val/pseudo_accuracy": "right on val",
    "val/top1": "val",
}


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a bar; the yielded function takes what is done, a note, and the total if it changed.

    Where the output is not a terminal, it prints a line at least every minute instead.
    """
    is_quiet, is_terminal = QUIET in os.environ, sys.stderr.isatty()
    pace = Pace()
    lines, status = Every(EVERY), Every(_STATUS_EVERY)
    file = os.environ.get(STATUS)
    with bars(hidden=is_quiet or not is_terminal) as bar:
        task = bar.add_task(title, total=total, left="", note="")

        def update(done: int, note: str = "", total: int | None = None) -> None:
            bar.update(task, completed=done, note=note, total=total)
            whole = bar.tasks[0].total
            left = pace(done, whole)
            bar.update(task, left=left_over(left))
            if file is not None and (status.is_due() or done == whole):
                write_status(Path(file), title=title, done=done, total=whole, left=left, note=note)
            if not is_quiet and not is_terminal and lines.is_due():
                of = "" if whole is None else f" of {whole:.0f}"
                parts = [f"{title}: {done}{of}", left_over(left), note]
                print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)

        yield update


def bars(*, hidden: bool) -> Progress:
    """Return bars whose notes give way to the rest where a terminal is narrow."""
    note = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=note),
    )
    return Progress(*columns, console=Console(stderr=True), disable=hidden, expand=True)


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def left_over(seconds: float | None) -> str:
    """Return the time left in words, or nothing while it is not known."""
    return "" if seconds is None else f"{duration(seconds)} left"


class Every:
    """Says when something is due that happens at most once in some seconds, not at first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether the time has passed; then it begins anew."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


class Pace:
    """Estimates the time left from what has been done since the first call."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None  # done, when

    def __call__(self, done: float, total: float | None) -> float | None:
        """Return the seconds left; None if nothing is known yet."""
        now = time.monotonic()
        if self.first is None:
            self.first = (done, now)
        before, since = self.first
        if total is None or done <= before:
            return None
        return (now - since) / (done - before) * (total - done)


class Describe:
    """Turns logged rows into a short note; remembers what a row does not repeat."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.values: dict[str, float] = {}
        self.last = (0.0, 0.0)  # step, seconds

    def __call__(self, row: dict[str, float]) -> str:
        """Return the note after one more row."""
        step, seconds = row["step"], row["seconds"]
        if step < self.last[0]:  # the next training of the run has begun
            self.last = (0.0, 0.0)
        if step > self.last[0]:
            speed = (step - self.last[0]) * self.images_per_step / (seconds - self.last[1])
            self.values["img/s"] = speed
            self.last = (step, seconds)
        self.values |= {short: row[key] for key, short in _SHOWN.items() if key in row}
        if "right" in self.values:  # of more images, and of the very ones
            self.values.pop("right on val", None)
        return "  ".join(
            f"{name} {value:.0f}" if name == "img/s" else f"{name} {value:.3f}"
            for name, value in self.values.items()
        )
