"""Progress of long stages on a terminal; silence elsewhere."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET = "SEMIMAE_QUIET"  # in the environment: no bars

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
    """Show a bar; the yielded function takes what is done, a note, and the total if it changed."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    hidden = not sys.stderr.isatty() or QUIET in os.environ
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(done: int, note: str = "", total: int | None = None) -> None:
            bar.update(task, completed=done, note=note, total=total)

        yield update


class Describe:
    """Turns logged rows into a short note; remembers what a row does not repeat."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.values: dict[str, float] = {}
        self.last = (0.0, 0.0)  # step, seconds

    def __call__(self, row: dict[str, float]) -> str:
        """Return the note after one more row."""
        step, seconds = row["step"], row["seconds"]
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
