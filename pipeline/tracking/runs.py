"""The functions that stages call. A failing tracking server costs a warning, never a run."""

import os
import queue
import threading
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.tracking.cells import create_run, find_run, publish_files, publish_report
from pipeline.tracking.model import is_headline, publish_model
from pipeline.tracking.store import Row, Store, connect, log_rows
from pipeline.tracking.system import SystemMetrics
from pipeline.tracking.trouble import explain
from semimae.types import Interrupted

FLUSH_SECONDS = 5.0
# How long a finished stage waits for a slow store: a share of its own duration, within limits. The
# upper limit applies while a local store is being opened, because it may have to be created first.
PATIENCE_SHARE, PATIENCE_SECONDS = 0.05, (5.0, 30.0)
STOPPING_SECONDS = 4.0  # the same for a stage that failed or was asked to stop
# An environment variable. If it is set, stages that end within LATER_SECONDS leave logging to the
# process that set it: importing MLflow in every process can take longer than training a short cell.
# The value ALL does the same for longer stages: many machines must not share SQLite's file.
LATER, LATER_SECONDS, ALL = "SEMIMAE_LOG_LATER", 30.0, "all"


class LiveRun:
    """Sends a stage's rows to the cell's run while the stage computes.

    A thread connects, batches and sends; neither MLflow's import nor a slow server delays a step.
    When the ``with`` block ends without an error, the stage's files are published.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder.resolve(), root
        self.rows: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self.ended = threading.Event()
        self.status = "FINISHED"
        self.began = time.monotonic()
        self.opened = "MLFLOW_TRACKING_URI" in os.environ
        self.warned = False
        self.thread = threading.Thread(target=self._work, daemon=True)

    def add(self, row: Row) -> None:
        """Hand over a row with ``step`` and ``time_ms``."""
        self.rows.put(row)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.status = "KILLED" if issubclass(kind, Interrupted) else "FAILED"
        patience = STOPPING_SECONDS if kind is not None else self._patience()
        self.ended.set()
        self.thread.join(patience)
        if self.thread.is_alive():
            self._warn(TimeoutError(f"no answer in {patience:.0f} s"))

    def _patience(self) -> float:
        least, most = PATIENCE_SECONDS
        if not self.opened:
            return most
        return min(most, max(least, PATIENCE_SHARE * (time.monotonic() - self.began)))

    def _work(self) -> None:
        later = os.environ.get(LATER)
        if later and self.ended.wait(None if later == ALL else LATER_SECONDS):
            return
        try:
            store = connect(self.root)
            self.opened = True
            run = find_run(store, self.folder) or create_run(store, self.folder)
            identity = run.info.run_id
            store.client.update_run(identity, status="RUNNING")
            system = SystemMetrics()
            last = False
            while not last:
                last = self.ended.wait(FLUSH_SECONDS)
                rows = [self.rows.get() for _ in range(self.rows.qsize())]
                log_rows(store, identity, [*rows, system.sample()])
            if self.status == "FINISHED":
                publish_files(store, run, self.folder)
            else:
                store.client.set_terminated(identity, self.status)
        except Exception as error:  # any failure of a server, a network or a disk
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            _warn(error)


def publish(folder: Path, root: Path) -> bool:
    """Log what the stage files of a cell contain and the store lacks.

    It is safe to repeat: files that are marked as logged are skipped, and the store recognizes rows
    that were sent live, because they have the same timestamps.

    Returns:
        Whether it succeeded. If not, a warning has been issued.
    """
    try:
        _publish(connect(root), folder)
    except Exception as error:
        _warn(error)
        return False
    return True


def finish_pipeline(root: Path, headline: Path, reports: Path) -> bool:
    """Log the headline's scores and the report to the invocation's run, and end the run.

    It also registers the model of the workspace's headline: all stages are done at this point, and
    this one waits for the store. It is safe to repeat.

    Returns:
        Whether it succeeded. If not, a warning has been issued.
    """
    try:
        store = connect(root)
        publish_report(store, headline, reports)
        if is_headline(headline, root):
            _publish(store, headline)
    except Exception as error:
        _warn(error)
        return False
    return True


def _publish(store: Store, folder: Path) -> None:
    run = find_run(store, folder) or create_run(store, folder)
    publish_files(store, run, folder)
    if store.config.log_model and is_headline(folder, store.root):
        publish_model(store, run, folder)


def _warn(error: Exception) -> None:
    warnings.warn(f"MLflow: {explain(error)}", stacklevel=2)
