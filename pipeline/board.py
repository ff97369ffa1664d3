"""The progress of a whole grid in one place: what is done, what runs, how long it will take."""

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import typer
from rich.progress import TaskID

from pipeline.noted import FINISHED, log_file, read_note, read_status
from pipeline.progress import EVERY, Every, bars, duration, left_over
from pipeline.workspace import RUNS
from semimae.options.cell import Cell
from semimae.options.grid import GridPoint


class Board:
    """Shows bars on a terminal, and elsewhere a line at least every minute.

    The time of a cell is estimated from cells of the same method and variant, by their steps; those
    that ran here before count too.
    """

    def __init__(self, root: Path, stages: Mapping[str, Sequence[str]], jobs: int) -> None:
        """Begin.

        Args:
            root: The repository.
            stages: What is to run of each cell, by its folder below runs/, in this order.
            jobs: How many run at the same time.
        """
        self.root, self.jobs = root, jobs
        self.waiting = dict(stages)
        self.running: set[str] = set()
        self.total, self.done, self.failed = len(self.waiting), 0, 0
        self.cells = {name: Cell.read(root / RUNS / name / "config.json") for name in stages}
        self.is_terminal = sys.stderr.isatty()
        self.bars = bars(hidden=not self.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.due = Every(EVERY)

    def __enter__(self) -> Self:
        self.bars.start()
        self.whole = self.bars.add_task("cells", total=self.total, left="", note="")
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        if self.is_terminal:
            self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            typer.echo(text, err=True)

    def ended(self, name: str, *, well: bool) -> None:
        """Count a cell that has ended."""
        self.waiting.pop(name, None)
        self.done += well
        self.failed += not well

    def update(self, running: Collection[str]) -> None:
        """Show how far the running cells are."""
        self.running = set(running)
        said = {name: read_status(self.root, name) for name in running}
        if self.is_terminal:
            self._move_bars(said)
        elif self.due.is_due():
            self._print(said)

    def left(self, said: Mapping[str, dict[str, Any]] | None = None) -> float | None:
        """Return the seconds until all cells are done; None while nothing is known."""
        said = said or {}
        pace = self._paces(said)
        if not pace:
            return None
        mean = sum(pace.values()) / len(pace)
        rest = []
        for name, stages in self.waiting.items():
            steps = self.cells[name].train.steps if "train" in stages else 0
            whole = pace.get(self._kind(name), mean) * steps
            now = said.get(name, {}).get("left")
            rest.append(float(now) if isinstance(now, int | float) else whole)
        return max([sum(rest) / self.jobs, *rest], default=0.0)

    def _kind(self, name: str) -> tuple[str, str | None]:
        point = GridPoint.parse(name)
        return self.cells[name].method, point and point.variant

    def _paces(self, said: Mapping[str, dict[str, Any]]) -> dict[tuple[str, str | None], float]:
        """Return the seconds per step of each kind of cell, as far as they are known."""
        found: dict[tuple[str, str | None], list[float]] = {}
        for name, cell in self.cells.items():
            trained, probed = (read_note(self.root, name, s) for s in ("train", "linear_probe"))
            status = said.get(name, {})
            if trained:
                seconds = trained["seconds"] + (probed["seconds"] if probed else 0.0)
                found.setdefault(self._kind(name), []).append(seconds / cell.train.steps)
            elif status.get("left") and status.get("total"):
                per_step = status["left"] / max(1, status["total"] - status["done"])
                found.setdefault(self._kind(name), []).append(per_step)
        return {kind: sum(values) / len(values) for kind, values in found.items()}

    def _move_bars(self, said: Mapping[str, dict[str, Any]]) -> None:
        left = left_over(self.left(said))
        note = f"{self.failed} failed" if self.failed else ""
        self.bars.update(self.whole, completed=self.done + self.failed, left=left, note=note)
        bars = {task.id: task for task in self.bars.tasks}
        for name, task in list(self.tasks.items()):
            is_new_stage = bars[task].total is not None and "total" not in said.get(name, {})
            if name not in self.running or is_new_stage:
                self.bars.remove_task(self.tasks.pop(name))
        for name, status in said.items():
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(name, total=None, left="", note="")
            self.bars.update(
                self.tasks[name],
                completed=status.get("done", 0),
                total=status.get("total"),
                left=left_over(status.get("left")),
                note=status.get("note") or status.get("title", ""),
            )

    def _print(self, said: Mapping[str, dict[str, Any]]) -> None:
        left = self.left(said)
        parts = [f"{self.done} of {self.total} cells done"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"about {duration(left)} left"] if left is not None else []
        self.say(", ".join(parts))
        for name, status in said.items():
            log = log_file(self.root, name).relative_to(self.root)
            self.say(f"  {name}: {describe(status)}; log: {log}")


def describe(status: Mapping[str, Any]) -> str:
    """Return how far a cell is, in words."""
    if not status:
        return "is starting"
    done, total, left = status.get("done"), status.get("total"), status.get("left")
    if done is None or status["title"] == FINISHED:
        return str(status["title"])
    parts = [f"step {done}" if total is None else f"step {done} of {total:.0f}"]
    parts += [str(status["note"])] if status.get("note") else []
    return ", ".join(filter(None, [*parts, left_over(left)]))
