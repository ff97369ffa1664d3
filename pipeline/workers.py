"""Processes on this machine that take cells one after another, each with GPUs of its own."""

import contextlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from pipeline.cell import JOBS
from pipeline.noted import status_file
from pipeline.tracking import LATER
from semimae.types import UserError

STOPPED = 130  # exit status
_COMMAND = [sys.executable, "-m", "pipeline", "cell", "-"]


class Task(NamedTuple):
    """Stages of a cell that one worker runs."""

    name: str  # the cell's folder below runs/
    stages: tuple[str, ...]


class Outcome(NamedTuple):
    """How a task ended."""

    task: Task
    status: int  # 0: done; 130: stopped, as asked; 128 + N: killed by signal N
    line: str  # what it said last, where it is not done

    @property
    def is_cut_off(self) -> bool:
        """Whether a signal ended it, so that the same task may well succeed."""
        return self.status > 128


class Pool(Protocol):
    """Runs tasks, on this machine or on others."""

    running: dict[str, Task]  # by the name of the cell

    @property
    def size(self) -> int: ...
    def submit(self, tasks: Sequence[Task]) -> None: ...
    def results(self, seconds: float) -> Iterator[list[Outcome]]: ...
    def drop(self) -> None: ...
    def stop(self) -> str: ...


class Workers:
    """As many processes as there are slots; each imports once and runs tasks until there are none.

    A process that was killed is replaced when there is a task for its slot.
    Slots are the values of CUDA_VISIBLE_DEVICES of the workers; None leaves the variable as it is.
    """

    def __init__(self, root: Path, slots: Sequence[str | None]) -> None:
        self.root, self.slots = root, slots
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.processes: list[subprocess.Popen[str]] = []
        self.threads: list[threading.Thread] = []
        self.running: dict[str, Task] = {}  # by the name of the cell
        self.waiting = 0
        self.is_stopping = False
        self.starting = threading.Lock()  # so that `stop` reaches every process

    def __enter__(self) -> Self:
        for place, slot in enumerate(self.slots):
            self.processes.append(self._start(slot))
            thread = threading.Thread(target=self._serve, args=(place,), daemon=True)
            self.threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.drop()
        if any(error) and self.running:
            self.stop()
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()

    @property
    def size(self) -> int:
        """How many tasks run at the same time."""
        return len(self.slots)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Add tasks; they begin in this order."""
        self.waiting += len(tasks)
        for task in tasks:
            self.tasks.put(task)

    def results(self, seconds: float) -> Iterator[list[Outcome]]:
        """Yield what has ended, at least every so many seconds, until all tasks have."""
        while self.waiting:
            ended = []
            with contextlib.suppress(queue.Empty):
                ended.append(self.outcomes.get(timeout=seconds))
                while True:
                    ended.append(self.outcomes.get_nowait())
            for outcome in ended:
                self.running.pop(outcome.task.name, None)
                self.waiting -= 1
            yield ended

    def drop(self) -> None:
        """Begin no more tasks; those that run go on."""
        with contextlib.suppress(queue.Empty):
            while True:
                if self.tasks.get_nowait() is not None:
                    self.waiting -= 1

    def stop(self) -> str:
        """Begin no more tasks, and ask those that run to save and end. Return what to say."""
        self.drop()
        with self.starting:
            self.is_stopping = True
            for process in self.processes:
                if process.poll() is None:
                    _signal_group(process, signal.SIGTERM)
        return f"Stopping: {len(self.running)} cells save a checkpoint first."

    def _start(self, slot: str | None) -> subprocess.Popen[str]:
        # In a group of its own, which a signal reaches as a whole; Ctrl-C at a terminal does not.
        variables = {LATER: "1", JOBS: str(len(self.slots))}
        if slot is not None:
            variables["CUDA_VISIBLE_DEVICES"] = slot
        return subprocess.Popen(
            _COMMAND,
            cwd=self.root,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            process_group=0,
        )

    def _serve(self, place: int) -> None:
        """Give tasks to the worker of one slot."""
        while (task := self.tasks.get()) is not None:
            self.running[task.name] = task
            status_file(self.root, task.name).unlink(missing_ok=True)
            self.outcomes.put(self._ask(self._worker(place), task))
        _end(self.processes[place])

    def _worker(self, place: int) -> subprocess.Popen[str]:
        """Return the process of a slot, a new one where it was killed."""
        with self.starting:
            if self.processes[place].poll() is not None and not self.is_stopping:
                _end(self.processes[place])
                self.processes[place] = self._start(self.slots[place])
            return self.processes[place]

    def _ask(self, process: subprocess.Popen[str], task: Task) -> Outcome:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the answer below says that it has died
            process.stdin.write(json.dumps(task._asdict()) + "\n")
            process.stdin.flush()
        if answer := process.stdout.readline():
            return Outcome(task, **json.loads(answer))
        status = process.wait()
        _signal_group(process, signal.SIGKILL)  # what it has started for `train.processes`
        if status == -signal.SIGTERM:
            said = "stopped in a stage without checkpoints, which begins again"
            return Outcome(task, STOPPED, said)
        if status >= 0:
            return Outcome(task, 1, f"its process ended with {status}")
        why = ", perhaps for lack of memory" if status == -signal.SIGKILL else ""
        said = f"its process was ended by {signal.Signals(-status).name}{why}"
        return Outcome(task, 128 - status, said)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end(process: subprocess.Popen[str]) -> None:
    """Close the pipes of a worker, which ends it, and wait until it has ended."""
    with contextlib.suppress(BrokenPipeError):
        process.__exit__(None, None, None)


def gpus(asked: str) -> list[str]:
    """Return the GPUs to use, as CUDA_VISIBLE_DEVICES names them.

    Args:
        asked: auto: those that this process may use; none; or a list such as 0,1.
    """
    if asked == "none":
        return []
    if asked != "auto":
        return [name.strip() for name in asked.split(",") if name.strip()]
    if (inherited := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        named = [name.strip() for name in inherited.split(",")]
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), named))  # as CUDA does
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def slots(jobs: int | None, devices: Sequence[str], per_gpu: int, width: int) -> list[str | None]:
    """Return the values of CUDA_VISIBLE_DEVICES for workers that run side by side.

    Args:
        jobs: How many cells at a time; None: as many as the GPUs take, or 2 without GPUs.
        devices: The GPUs there are; none: cells run on the CPU, or on another accelerator.
        per_gpu: How many cells share a GPU, where ``jobs`` does not say.
        width: How many processes a cell has, each with a GPU of its own: `train.processes`.

    Raises:
        UserError: If a cell has more processes than there are GPUs.
    """
    if not devices:
        return [None] * max(1, (2 if jobs is None else jobs) // width)
    if len(devices) < width:
        raise UserError(
            f"train.processes={width} needs as many GPUs, and there are {len(devices)}: "
            f"{','.join(devices)}; lower it or name more with --gpus."
        )
    groups = [",".join(group) for group in zip(*[iter(devices)] * width, strict=False)]
    count = len(groups) * per_gpu if jobs is None else jobs
    return [groups[number % len(groups)] for number in range(count)]
