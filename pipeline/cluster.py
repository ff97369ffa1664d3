"""Cells as jobs of a Slurm cluster, through submitit; nodes need the project's disk, and no DVC."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pipeline.noted import last_line, log_file, mismatch, notes, read_status
from pipeline.workers import Outcome, Task
from pipeline.workspace import python_path, write_json
from semimae.types import UserError

_MINUTES = 24 * 60  # a job's limit of time, where --slurm does not say
_ASK_EVERY = 5.0  # seconds between two questions to Slurm


class CellJob:
    """What a job runs: the command of a cell. submitit keeps it in a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, task: Task) -> None:
        """Run a cell to its end.

        Raises:
            RuntimeError: If it failed, or was stopped by a signal of Slurm.
        """
        options = [word for stage in task.stages for word in ("--stage", stage)]
        command = [sys.executable, "-m", "pipeline", "cell", task.name, *options]
        log = log_file(self.root, task.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self.root, stdout=output, stderr=subprocess.STDOUT
            )
            status = self.process.wait()
        if status:
            raise RuntimeError(f"{task.name} ended with status {status}; see {log}")

    def checkpoint(self, task: Task) -> Any:
        """Save before the job's time is up or another takes its place; submitit requeues it."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        return DelayedSubmission(type(self)(self.root), task)


class Cluster:
    """Runs tasks as jobs of Slurm, with the methods of ``Workers``.

    The number of a cell's job is kept beside its notes, so another coordinator finds it.
    """

    def __init__(
        self, root: Path, jobs: int | None, options: Sequence[str], *, gpus: int, cancel: bool
    ) -> None:
        """Look for Slurm.

        Args:
            root: The repository, on a disk that all nodes have.
            jobs: Cells at the same time; None: as many as Slurm starts.
            options: Parameters of submitit's SlurmExecutor, each as NAME=VALUE.
            gpus: GPUs of a cell.
            cancel: Whether jobs end when the coordinator is stopped.

        Raises:
            UserError: If submitit or Slurm is missing, or an option is unknown.
        """
        try:
            import submitit
        except ImportError:
            raise UserError("--on slurm needs submitit: pip install 'semimae[cluster]'.") from None
        self.root, self.cancel = root, cancel
        asked: dict[str, Any] = {"time": _MINUTES, "job_name": "semimae"}
        if gpus:
            asked["gpus_per_node"] = gpus
        for option in options:
            name, is_there, value = option.partition("=")
            if not is_there:
                raise UserError(f"--slurm {option}: write NAME=VALUE, as in partition=gpu.")
            asked[name.replace("-", "_")] = int(value) if value.isdecimal() else value
        self.size = jobs or 256
        try:
            self.executor = submitit.SlurmExecutor(root / ".semimae" / "slurm")
            self.executor.update_parameters(**asked, array_parallelism=self.size)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"Slurm: {error}") from None
        self.jobs: dict[str, tuple[Task, str]] = {}  # by the name of the cell
        self.running: dict[str, Task] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> None:
        """Submit tasks as one array of jobs, but for those whose jobs are there already."""
        there = _queued()
        for task in tasks:
            job = self._job_of(task.name)
            if job is not None and job in there:
                self.jobs[task.name] = (task, job)
        new = [task for task in tasks if task.name not in self.jobs]
        if not new:
            return
        os.environ["PYTHONPATH"] = python_path(self.root)  # which sbatch hands on to the jobs
        try:
            with contextlib.chdir(self.root):
                jobs = self.executor.map_array(CellJob(self.root), new)
        except Exception as error:  # submitit's own, with what sbatch said
            raise UserError(f"Slurm took no jobs: {error}") from None
        for task, job in zip(new, jobs, strict=True):
            self.jobs[task.name] = (task, job.job_id)
            write_json(self._job_file(task.name), job.job_id)

    def results(self, seconds: float) -> Iterator[list[Outcome]]:
        """Yield what has ended, at least every so many seconds, until all jobs have."""
        asked = 0.0
        while self.jobs:
            ended = []
            if time.monotonic() - asked > _ASK_EVERY:
                there = _queued()
                asked = time.monotonic()
                for name, (task, job) in list(self.jobs.items()):
                    if job not in there:
                        del self.jobs[name]
                        self._job_file(name).unlink(missing_ok=True)
                        ended.append(self._outcome(task))
                self.running = {
                    name: task
                    for name, (task, job) in self.jobs.items()
                    if there[job] == "RUNNING" and read_status(self.root, name)
                }
            yield ended
            time.sleep(seconds)

    def drop(self) -> None:
        """Leave the jobs alone: others' failure is no reason to end them."""

    def stop(self) -> str:
        """Cancel the jobs, which save; or leave them, and wait no longer. Return which."""
        count = len(self.jobs)
        if self.cancel and count:
            subprocess.run(["scancel", *(job for _, job in self.jobs.values())], check=False)
            return f"Canceling {count} jobs: those that run save a checkpoint first."
        self.jobs.clear()
        return f"Leaving {count} jobs to Slurm. With --cancel they would end too."

    def _outcome(self, task: Task) -> Outcome:
        if all(mismatch(self.root, task.name, stage) is None for stage in task.stages):
            return Outcome(task, 0, "")
        line = last_line(self.root, task.name)
        return Outcome(task, 130 if self.cancel and "stopped" in line else 1, line)

    def _job_file(self, name: str) -> Path:
        return notes(self.root, name) / "job.json"

    def _job_of(self, name: str) -> str | None:
        try:
            return str(json.loads(self._job_file(name).read_text()))
        except (FileNotFoundError, ValueError):
            return None


def _queued() -> dict[str, str]:
    """Return the state of each job of this user that Slurm has not ended, by its number.

    Raises:
        UserError: If Slurm does not answer.
    """
    command = ["squeue", "--me", "-h", "-r", "-o", "%i %T"]
    for attempt in range(5):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            pairs = (line.partition(" ") for line in done.stdout.splitlines())
            return {number: state for number, _, state in pairs}
        time.sleep(2.0**attempt)
    raise UserError(
        f"Slurm does not answer: {done.stderr.strip()}; jobs go on without this command."
    )
