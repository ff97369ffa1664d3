"""Starts the processes of ``train.processes`` on this machine; torchrun is for several machines."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from pipeline.workspace import on_stop

_POLL = 0.1  # seconds
_GRACE = 8.0  # seconds that the others get to end, once one has failed
LOST = 3  # exit status of a process that ended because another one had


def launched() -> bool:
    """Tell whether this is a process that torchrun or ``launch`` has started."""
    return "WORLD_SIZE" in os.environ


def launch(command: list[str], processes: int) -> int:
    """Run a command in several processes that know of each other; return the job's exit status.

    SIGTERM and Ctrl-C are passed on. Where a process fails, the others are ended, and its status is
    the job's. A file is their meeting point, so no port is taken.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "rendezvous").as_uri()
        shared = os.environ | {"WORLD_SIZE": str(processes), "SEMIMAE_RENDEZVOUS": meeting}
        running: list[subprocess.Popen[bytes]] = []

        def pass_on(number: int, frame: FrameType | None = None) -> None:
            for process in running:
                process.send_signal(number)

        with on_stop(pass_on):
            try:
                for rank in range(processes):
                    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    running.append(subprocess.Popen(command, env=shared | own))
                return _wait(running)
            finally:
                for process in running:
                    process.kill()
                    process.wait()


def _wait(running: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or one has failed and the others had their time."""
    while True:
        codes = [process.poll() for process in running]
        if all(code == 0 for code in codes):
            return 0
        if any(codes):
            break
        time.sleep(_POLL)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline and any(process.poll() is None for process in running):
        time.sleep(_POLL)
    failed = [(rank, code) for rank, p in enumerate(running) if (code := p.poll())]
    rank, code = min(failed, key=lambda each: each[1] == LOST)  # one that failed by itself
    if code < 0:
        name = signal.Signals(-code).name
        print(f"error: process {rank} of {len(running)} was ended by {name}", file=sys.stderr)
    return code if code > 0 else 128 - code  # as shells have it
