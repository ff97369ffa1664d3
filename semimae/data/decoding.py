"""Processes that decode image files: threads would wait for each other's Python lock.

A process serves one connection, a pair of sockets. It gets a ``Request`` as JSON and answers with
the number of bytes of an error message and the message, or with 0 and the pixels. Pixels arrive
where they are wanted, by one call that waits for all of them without the lock. Nothing is kept in
shared memory, of which a container often has 64 MB, and Python's own pools, which pickle results
and run the main module again in each process, are not needed.
"""

import atexit
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from semimae.data.crops import square_views
from semimae.data.store import Files
from semimae.types import UserError

_SIZE = 8  # bytes of the number that an answer begins with
# Stop signals are for the run: it still needs what it has asked for, and its end is theirs.
_CHILD = """\
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
from semimae.data.decoding import serve
serve()
"""


class Request(NamedTuple):
    """Some image files, and the square views that are wanted of each."""

    files: Files
    names: list[str]
    size: int  # of the views, in pixels
    min_scale: float  # see ``random_box``
    draws: list[list[list[float]]]  # per file and view; no views: the whole image


class Processes:
    """A fixed number of processes, for any number of threads."""

    def __init__(self, count: int) -> None:
        """Start them; what they import overlaps with what the caller does next."""
        self.idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self.count = count
        for _ in range(count):
            self.idle.put(_Process())

    def read(self, request: Request, views: Tensor) -> None:
        """Let the next idle process fill ``views``, uint8 ``[V, B, C, size, size]``.

        Raises:
            UserError: If a file cannot be read, or the process has ended.
        """
        process = self.idle.get()
        try:
            if process.has_ended():
                process.close()
                process = _Process()
            process.read(request, views)
        finally:
            self.idle.put(process)

    def close(self) -> None:
        """End all of them."""
        for _ in range(self.count):
            self.idle.get().close()


@cache
def processes(count: int) -> Processes:
    """Return the processes that all readers of this process share until it ends."""
    made = Processes(count)
    atexit.register(made.close)
    return made


def serve() -> None:
    """Answer requests at the socket that stands for standard input, until it is closed."""
    warnings.simplefilter("ignore")  # `prepare` has heard them; each process would repeat them
    with suppress(ConnectionError), socket.socket(fileno=0) as connection:
        for line in connection.makefile("rb"):
            files, *others = json.loads(line)
            connection.sendall(_answer(Request(Files(*files), *others)))


def _answer(request: Request) -> bytes:
    files, names, size, min_scale, draws = request
    try:
        made = [
            square_views(files.pixels(name), size, min_scale, own)
            for name, own in zip(names, draws, strict=True)
        ]
    except UserError as error:
        message = str(error).encode()
        return len(message).to_bytes(_SIZE, "big") + message
    views = [torch.stack(part).numpy().tobytes() for part in zip(*made, strict=True)]
    return b"".join([bytes(_SIZE), *views])


class _Process:
    """One process, and this side of its connection."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        path = os.pathsep.join(sys.path)  # it imports what this process does
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C at a terminal does not reach it
            )

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def read(self, request: Request, views: Tensor) -> None:
        size = bytearray(_SIZE)
        try:
            self.connection.sendall(json.dumps(request).encode() + b"\n")
            self._receive(memoryview(size))
            if any(size):
                message = bytearray(int.from_bytes(size, "big"))
                self._receive(memoryview(message))
                raise UserError(message.decode())
            for view in views:
                self._receive(memoryview(view.numpy()).cast("B"))
        except ConnectionError:
            raise UserError(self._reason()) from None

    def close(self) -> None:
        self.connection.close()
        self.process.wait()

    def _receive(self, left: memoryview) -> None:
        while left:
            received = self.connection.recv_into(left, len(left), socket.MSG_WAITALL)
            if not received:
                raise ConnectionResetError
            left = left[received:]

    def _reason(self) -> str:
        status = self.process.wait()
        how = f"with status {status}"
        if status < 0:
            how = f"by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += ", perhaps for lack of memory"
        return (
            f"a process that decodes images was ended {how}; lower data.workers, or set "
            "data.decode: threads."
        )
