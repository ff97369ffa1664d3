"""The one process that knows what a grid has to do, hands it out, and records it in dvc.lock."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from pipeline.board import Board
from pipeline.dvc_lock import DvcLock
from pipeline.noted import STAGES, dvc_name, log_file, mismatch
from pipeline.progress import duration
from pipeline.workers import Outcome, Pool, Task, last_line, warnings_in
from pipeline.workspace import HEADLINE, RUNS, run_folders
from semimae.options.cell import cell_id
from semimae.options.params import Params
from semimae.types import Interrupted, UserError

_DVC = [sys.executable, "-m", "dvc", "--wait-for-lock"]
_AFTER_SPLIT = tuple(STAGES)[1:]
_POLL = 0.2  # seconds
_STOPPED = 130  # exit status


class Coordinator:
    """Runs the cells of a repository, and is the one that records them in dvc.lock."""

    def __init__(self, root: Path, params: Params, lock: DvcLock, stopped: threading.Event) -> None:
        self.root, self.params, self.lock, self.stopped = root, params, lock, stopped

    def before_cells(self, changed: set[str]) -> None:
        """Run the stages that all cells need, where they are not up to date."""
        if needed := [stage for stage in ("prepare", "inputs") if stage in changed]:
            self.dvc("repro", "-q", *needed)

    def split(self, pool: Pool) -> None:
        """Write config.json and split.json of all cells, by which equal ones are known."""
        points = [point for equal in self.params.grid().values() for point in equal]
        names = dict.fromkeys([HEADLINE, *(point.folder for point in points)])
        changed = self.lock.changed()
        tasks = [
            Task(name, ("split",)) for name in names if self._dvc_name(name, "split") in changed
        ]
        pool.submit(tasks)
        done: list[Outcome] = []
        failed: list[Outcome] = []
        for ended in pool.results(_POLL):
            for outcome in ended:
                (failed if outcome.status else done).append(outcome)
            if failed or self.stopped.is_set():
                pool.stop()
        self._record([outcome.task for outcome in done], run_cache=False)
        if self.stopped.is_set():
            raise Interrupted(f"Stopped before the first cell. {_again()}")
        self._end_if(failed)

    def cells(self, pool: Pool) -> None:
        """Train and score each distinct cell that has something to do."""
        todo = self._without_known(self.pending(self.lock.changed()))
        tasks = first_of_equal(self.root, todo)
        if not tasks:
            return
        jobs = min(pool.size, len(tasks))
        failed: list[Outcome] = []
        saved: list[Outcome] = []
        with Board(self.root, {t.name: t.stages for t in tasks}, jobs) as board:
            left = board.left()
            soon = "" if left is None else f"; about {duration(left)}, as such cells took before"
            board.say(f"Cells to train or score: {len(tasks)}, {jobs} at a time{soon}.")
            pool.submit(tasks)
            is_told, warned = False, set[str]()
            for ended in pool.results(_POLL):
                self._record([outcome.task for outcome in ended if outcome.status == 0])
                saved += [outcome for outcome in ended if outcome.status == _STOPPED]
                for outcome in ended:
                    if outcome.status != _STOPPED:
                        board.ended(outcome.task.name, well=outcome.status == 0)
                    for line in warnings_in(self.root, outcome.task.name):
                        if line not in warned:  # such as: no store answers, in every cell
                            warned.add(line)
                            board.say(line)
                    if outcome.status not in (0, _STOPPED):
                        failed.append(outcome)
                        board.say(f"{outcome.task.name} failed: {outcome.line}")
                if failed:  # what has not begun is not begun
                    pool.drop()
                if self.stopped.is_set() and not is_told:
                    is_told = True
                    board.say(pool.stop())
                board.update(pool.running)
        if self.stopped.is_set():
            for outcome in saved:
                typer.echo(f"{outcome.task.name}: {outcome.line}", err=True)
            raise Interrupted(
                f"Stopped: {board.done} of {board.total} cells are done and recorded. {_again()}"
            )
        self._end_if(failed)
        self._without_known(todo)  # the equal ones

    def pending(self, changed: set[str]) -> list[Task]:
        """Return the cells with stages to run, headline first, then as in the grid."""
        tasks = []
        for folder in run_folders(self.root, self.params):
            stages = [s for s in _AFTER_SPLIT if self._dvc_name(folder.name, s) in changed]
            if stages:
                tasks.append(Task(folder.name, tuple(stages)))
        return tasks

    def dvc(self, *arguments: str) -> None:
        """Run a command of DVC, which saves and ends when this process is asked to stop.

        Raises:
            Interrupted: If it was.
            typer.Exit: If the command failed; it has said why.
        """
        # In a group of its own, which a signal reaches as a whole: DVC, the stage, its processes.
        # The stages call `python`: this one, also where its environment is not activated.
        bin_ = str(Path(sys.executable).parent)
        path = os.pathsep.join([bin_, os.environ.get("PATH", os.defpath)])
        process = subprocess.Popen(
            [*_DVC, *arguments], cwd=self.root, env={**os.environ, "PATH": path}, process_group=0
        )
        told = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_POLL)
                break
            if self.stopped.is_set() and not told:
                told = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)
        if self.stopped.is_set():
            raise Interrupted(f"Stopped. {_again()}")
        if status:
            raise typer.Exit(1)

    def _without_known(self, tasks: Sequence[Task]) -> list[Task]:
        """Record what workers had noted before, restore what DVC knows; return what remains."""
        noted = [Task(task.name, self._noted(task)) for task in tasks]
        self._record(noted)
        rest = _less(tasks, {task.name: task.stages for task in noted})
        found = self.lock.restore([self._dvc_names(task) for task in rest])
        known = {t.name: [s for s in t.stages if self._dvc_name(t.name, s) in found] for t in rest}
        return _less(rest, known)

    def _noted(self, task: Task) -> tuple[str, ...]:
        known = [stage for stage in task.stages if mismatch(self.root, task.name, stage) is None]
        # Without its training, what follows is of other weights.
        return () if "train" in task.stages and "train" not in known else tuple(known)

    def _record(self, tasks: Sequence[Task], *, run_cache: bool = True) -> None:
        """Tell DVC what workers have done, if it fits what is there now."""
        names = []
        for task in tasks:
            for stage in task.stages:
                if reason := mismatch(self.root, task.name, stage):
                    raise UserError(f"{reason}; nothing of it is recorded: run the grid again.")
                names.append(self._dvc_name(task.name, stage))
        if names:
            self.lock.record(names, run_cache=run_cache)

    def _dvc_name(self, name: str, stage: str) -> str:
        return dvc_name(name, stage, self.params.ablation.baseline.variant)

    def _dvc_names(self, task: Task) -> list[str]:
        return [self._dvc_name(task.name, stage) for stage in task.stages]

    def _end_if(self, failed: Sequence[Outcome]) -> None:
        for task, _, line in failed:
            log = log_file(self.root, task.name).relative_to(self.root)
            typer.echo(f"error: {task.name}: {line or last_line(self.root, task.name)}", err=True)
            typer.echo(f"  Its output is in {log}.", err=True)
        if failed:
            typer.echo(f"What is done is recorded. {_again()}", err=True)
            raise typer.Exit(1)


def first_of_equal(root: Path, tasks: Sequence[Task]) -> list[Task]:
    """Return the first task of each distinct cell: its results are those of the others."""
    first: dict[str, Task] = {}
    for task in tasks:
        first.setdefault(cell_id(root / RUNS / task.name), task)
    return list(first.values())


def _less(tasks: Sequence[Task], known: Mapping[str, Sequence[str]]) -> list[Task]:
    left = [Task(t.name, tuple(s for s in t.stages if s not in known[t.name])) for t in tasks]
    return [task for task in left if task.stages]


def _again() -> str:
    """Say how to go on."""
    command = "`make repro`" if "MAKELEVEL" in os.environ else "The same command"
    return f"{command} continues."
