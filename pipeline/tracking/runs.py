"""What the stages call. A tracking server that fails costs a warning, never a run."""

import os
import queue
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.tracking.cells import create_run, find_run, publish_files
from pipeline.tracking.model import is_headline, publish_model
from pipeline.tracking.store import Row, connect, log_rows, parent_run
from pipeline.tracking.system import SystemMetrics
from semimae.types import Interrupted

FLUSH_SECONDS = 5.0
PATIENCE_SECONDS = 30.0  # how long a finished stage waits for a slow server
STOPPING_SECONDS = 4.0  # the same for one that was asked to stop
# In the environment: stages that end within LATER_SECONDS leave the logging to whoever set it. For
# a grid of short cells, importing MLflow in every process would take longer than training.
LATER, LATER_SECONDS = "SEMIMAE_LOG_LATER", 30.0


class LiveRun:
    """Sends a stage's rows to the cell's run while the stage computes.

    A thread connects, batches and sends, so that neither MLflow's import nor a slow server delays
    a step. When the ``with`` block ends well, the stage's files are published.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder.resolve(), root
        self.rows: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self.ended = threading.Event()
        self.status = "FINISHED"
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
        patience = PATIENCE_SECONDS if kind is None else STOPPING_SECONDS
        self.ended.set()
        self.thread.join(patience)
        if self.thread.is_alive():
            _warn(TimeoutError(f"no answer in {patience:.0f} s"))

    def _work(self) -> None:
        if LATER in os.environ and self.ended.wait(LATER_SECONDS):
            return
        try:
            store = connect(self.root)
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
            store.client.set_terminated(identity, self.status)
        except Exception as error:  # whatever a server, a network or a full disk can do
            _warn(error)


def publish(folder: Path, root: Path) -> bool:
    """Log what the stage files of a cell say and the store lacks, unless LATER is set.

    Safe to repeat: files that are marked as logged are passed over, and rows that were sent live
    are recognised by the store, since they carry the same times.

    Returns:
        Whether all is well. If not, a warning has been given.
    """
    if LATER in os.environ:
        return True
    try:
        store = connect(root)
        run = find_run(store, folder) or create_run(store, folder)
        publish_files(store, run, folder)
        if store.config.log_model and is_headline(folder, root):
            publish_model(store, run, folder)
        store.client.set_terminated(run.info.run_id, "FINISHED")
    except Exception as error:
        _warn(error)
        return False
    return True


def finish_pipeline(root: Path, scores: dict[str, float], reports: Path) -> None:
    """Give the parent run of this invocation the headline's scores and the report, and end it."""
    try:
        store = connect(root)
        parent = parent_run(store)
        for name, value in scores.items():
            store.client.log_metric(parent, name, value)
        store.client.log_artifacts(parent, str(reports), "reports")
        store.client.set_terminated(parent, "FINISHED")
    except Exception as error:
        _warn(error)


def _warn(error: Exception) -> None:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    warnings.warn(
        f"MLflow: {reason}; nothing is lost: `python -m pipeline sync-mlflow` logs it later",
        stacklevel=2,
    )
