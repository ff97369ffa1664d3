"""The one process that knows what a grid has to do, hands it out, and records it in dvc.lock."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from pipeline.board import Board
from pipeline.dvc_lock import DvcLock
from pipeline.noted import STAGES, dvc_name, last_line, log_file, mismatch, warnings_in
from pipeline.progress import duration
from pipeline.workers import STOPPED, Outcome, Pool, Task
from pipeline.workspace import HEADLINE, RUNS, run_folders
from semimae.options.cell import cell_id
from semimae.options.params import Params
from semimae.types import Interrupted, UserError

_DVC = [sys.executable, "-m", "dvc", "--wait-for-lock"]
_AFTER_SPLIT = tuple(STAGES)[1:]
_POLL = 0.2  # seconds
_TRIES = 3  # attempts at a cell whose process is killed


class Coordinator:
    """Runs the cells of a repository. Nothing else records them in dvc.lock meanwhile."""

    def __init__(self, root: Path, params: Params, lock: DvcLock, stopped: threading.Event) -> None:
        self.root, self.params, self.lock, self.stopped = root, params, lock, stopped

    def before_cells(self, changed: set[str]) -> None:
        """Run the stages that all cells need, where they are not up to date."""
        if needed := [stage for stage in ("prepare", "inputs") if stage in changed]:
            self.dvc("repro", "-q", *needed)

    def split(self, pool: Pool) -> None:
        """Write config.json and split.json of all cells, which tell which cells are equal."""
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
            is_told, warned, tries = False, set[str](), Counter[str]()
            for ended in pool.results(_POLL):
                self._record([outcome.task for outcome in ended if outcome.status == 0])
                for outcome in ended:
                    name = outcome.task.name
                    for line in warnings_in(self.root, name):
                        if line not in warned:  # each cell may warn that no store answers
                            warned.add(line)
                            board.say(line)
                    tries[name] += 1
                    may_go_on = not failed and not self.stopped.is_set()
                    if outcome.is_cut_off and may_go_on and tries[name] < _TRIES:
                        attempt = f"attempt {tries[name] + 1} of {_TRIES}"
                        board.say(f"{name}: {outcome.line}; it is continued, {attempt}.")
                        pool.submit([outcome.task])
                    elif outcome.status == STOPPED:
                        saved.append(outcome)
                    else:
                        board.ended(name, well=outcome.status == 0)
                        if outcome.status:
                            failed.append(outcome)
                            board.say(f"{name} failed: {outcome.line}")
                if failed:  # then no other cell is started
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
        self._without_known(todo)  # cells that equal others take their results

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
            Interrupted: If this process was asked to stop.
            typer.Exit: If the command failed; it has said why.
        """
        # It has a process group of its own, so that a signal reaches DVC, the stage and its
        # processes. The stages call `python`, which is this one even if its environment is not
        # activated.
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
        found = self.lock.restore([[self._dvc_name(t.name, s) for s in t.stages] for t in rest])
        known = {t.name: [s for s in t.stages if self._dvc_name(t.name, s) in found] for t in rest}
        return _less(rest, known)

    def _noted(self, task: Task) -> tuple[str, ...]:
        known = [stage for stage in task.stages if mismatch(self.root, task.name, stage) is None]
        # If the training has to run again, later stages have scored other weights.
        return () if "train" in task.stages and "train" not in known else tuple(known)

    def _record(self, tasks: Sequence[Task], *, run_cache: bool = True) -> None:
        """Tell DVC what workers have done, provided that it fits the files that are there now."""
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
