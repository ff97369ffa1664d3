"""A stage that only exchanges sums, until something happens to one of its processes."""

import os
import signal
import sys

import torch

from pipeline import __main__ as command
from pipeline.workspace import stop_requests
from semimae.distributed import add_up, any_process, connected, world
from semimae.types import Interrupted


def work() -> None:
    event = sys.argv[1]
    with stop_requests() as stopped, connected():
        print("connected", flush=True)
        for step in range(10_000_000):
            add_up(torch.ones(1000))
            if any_process(stopped.is_set()):
                raise Interrupted("stopped, as asked")
            if step == 5 and world().rank == 1:
                if event == "raises":
                    raise ZeroDivisionError("of process 1 alone")
                if event == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    command.app = work  # type: ignore[assignment]
    command.main()
