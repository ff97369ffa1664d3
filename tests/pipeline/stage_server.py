"""Imports what stages need once, then forks a process per line of standard input.

A stage's start takes seconds, most of them for imports; a fork of this takes a few milliseconds and
then runs what ``python -m pipeline COMMAND`` runs. No thread is started before the fork.
"""

import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any


def become_a_stage(order: dict[str, Any]) -> None:
    """Do in a fork what a new process would do."""
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    for name, number in (("die_at", signal.SIGKILL), ("halt_at", signal.SIGSTOP)):
        if order[name]:
            sys.addaudithook(at_change(order[name], order["environment"]["DVC_ROOT"], number))
    if order["patient"]:
        from pipeline.tracking import runs

        runs.PATIENCE_SECONDS = (600.0, 600.0)
    if order["arguments"] == ["publish"]:
        from pipeline.tracking import publish

        raise SystemExit(not publish(Path(), Path(order["environment"]["DVC_ROOT"])))
    if order["arguments"][0] == "serve":
        serve(Path(order["environment"]["DVC_ROOT"]), *map(int, order["arguments"][1:]))
    sys.argv = ["pipeline", *order["arguments"]]
    from pipeline.__main__ import main

    main()


def serve(root: Path, port: int, requests: int) -> None:
    """Be MLflow's own server on a workspace's store; die when one more request comes."""
    from mlflow.server import app
    from mlflow.server.handlers import initialize_backend_stores
    from werkzeug.serving import make_server

    artifacts = (root / "mlartifacts").as_uri()
    initialize_backend_stores(f"sqlite:///{root / 'mlflow.db'}", default_artifact_root=artifacts)
    left = requests

    def counting(environ: dict[str, Any], start_response: Any) -> Any:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return app(environ, start_response)

    make_server("127.0.0.1", port, counting).serve_forever()


def at_change(
    which: int, root: str, number: signal.Signals
) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook by which the process sends itself a signal.

    It does so before its nth change of files below ``root``.
    """
    changes = itertools.count(1)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            path = os.path.abspath(os.fspath(args[0])) if not isinstance(args[0], int) else ""
            if path.startswith(root) and next(changes) == which:
                os.kill(os.getpid(), number)

    return hook


def load() -> None:
    """Import all that a stage imports later."""
    import mlflow.store.tracking.sqlalchemy_store
    import torch

    import pipeline.__main__
    import semimae.engine.folds
    import semimae.evaluation.fine_tune
    import semimae.evaluation.probe
    import semimae.evaluation.reconstruct
    from semimae.options.method import METHODS

    for options in METHODS.values():
        resolve_name(options.implementation)
    del mlflow, pipeline, semimae
    torch.set_num_threads(1)
    assert threading.active_count() == 1, threading.enumerate()


def main() -> None:
    load()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                become_a_stage(order)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
    os._exit(0)  # taking all of it down properly takes seconds


if __name__ == "__main__":
    main()
