"""MLflow: the only file that knows it. A tracking server that fails costs a warning, never a run.

One experiment; a parent run per invocation of the pipeline; one child run per cell, which holds
training and evaluation together, so that MLflow's compare view works. The stage files are the
truth: ``publish`` brings the store to what they say and may be repeated at any time.
"""

import hashlib
import json
import logging
import os
import queue
import sqlite3
import threading
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from filelock import FileLock

from pipeline.workspace import git_commit
from semimae.cell import Cell, cell_id
from semimae.params import Params
from semimae.types import Interrupted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Row = dict[str, float]
FLUSH_SECONDS = 5.0
PATIENCE_SECONDS = 30.0  # how long a finished stage waits for a slow server
STOPPING_SECONDS = 4.0  # the same for one that was asked to stop
# In the environment: stages that end within LATER_SECONDS leave the logging to whoever set it. For
# a grid of short cells, importing MLflow in every process would take longer than training.
LATER, LATER_SECONDS = "SEMIMAE_LOG_LATER", 30.0
BATCH = 1000  # metrics per request, MLflow's limit
CELL, PIPELINE, DIGEST = "semimae.cell_id", "semimae.pipeline", "semimae.digest."
EVALUATIONS = ("linear_probe", "fine_tune")


class Store(NamedTuple):
    """A connection to the tracking store."""

    client: "MlflowClient"
    experiment: str  # id
    root: Path


def connect(root: Path) -> Store:
    """Open the tracking store and make sure that the experiment is there.

    Without MLFLOW_TRACKING_URI it is ``mlflow.db`` in the root, also from the temporary workspace
    of a queued experiment. Processes that open a fresh SQLite store at the same time destroy it,
    so a lock is held.
    """
    # An unreachable server would otherwise block for minutes per call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    remote, database = os.environ.get("MLFLOW_TRACKING_URI"), root / "mlflow.db"
    name = Params.read(root / "params.yaml").tracking.experiment
    with _lock(root):
        client = MlflowClient(remote or f"sqlite:///{database}")
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            identity = client.create_experiment(name, None if remote else _artifacts(root))
            if not remote:
                connection = sqlite3.connect(database)
                connection.execute("PRAGMA journal_mode=WAL")  # readers do not block the writer
                connection.close()
        else:
            identity = experiment.experiment_id
    return Store(client, identity, root)


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
            run = _find_run(store, self.folder) or _create_run(store, self.folder)
            identity = run.info.run_id
            store.client.update_run(identity, status="RUNNING")
            last = False
            while not last:
                last = self.ended.wait(FLUSH_SECONDS)
                rows = [self.rows.get() for _ in range(self.rows.qsize())]
                _log_rows(store, identity, rows)
            if self.status == "FINISHED":
                _publish(store, run, self.folder)
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
        run = _find_run(store, folder) or _create_run(store, folder)
        _publish(store, run, folder)
        store.client.set_terminated(run.info.run_id, "FINISHED")
    except Exception as error:
        _warn(error)
        return False
    return True


def finish_pipeline(root: Path, scores: dict[str, float], reports: Path) -> None:
    """Give the parent run of this invocation the headline's scores and the report, and end it."""
    try:
        store = connect(root)
        parent = _parent_run(store)
        for name, value in scores.items():
            store.client.log_metric(parent, name, value)
        store.client.log_artifacts(parent, str(reports), "reports")
        store.client.set_terminated(parent, "FINISHED")
    except Exception as error:
        _warn(error)


def _publish(store: Store, run: "Run", folder: Path) -> None:
    identity, logged = run.info.run_id, run.data.tags
    train = folder / "train"
    if train.is_dir() and logged.get(f"{DIGEST}train") != (digest := _digest(train)):
        rows = _read(train / "history.json") + _read(train / "validation.json")
        times = _read(train / "timing.json")
        _log_rows(store, identity, [r | t for r, t in zip(rows, times, strict=True)])
        store.client.set_tag(identity, f"{DIGEST}train", digest)
    for stage in EVALUATIONS:
        path = folder / f"{stage}.json"
        if path.is_file() and logged.get(f"{DIGEST}{stage}") != (digest := _digest(path)):
            scores = {
                f"test/{protocol}/{name}": value["value"] if isinstance(value, dict) else value
                for protocol, result in _read(path)["protocols"].items()
                for name, value in result.items()
                if name in ("top1", "top5", "ece", "nll") and value is not None
            }
            step = {"step": 0, "time_ms": time.time_ns() // 1_000_000}
            _log_rows(store, identity, [scores | step])
            store.client.set_tag(identity, f"{DIGEST}{stage}", digest)


def _find_run(store: Store, folder: Path) -> "Run | None":
    """Find the run of the cell: one that trained these very weights, or has not finished."""
    wanted = _digest(folder / "train") if (folder / "train").is_dir() else None
    query = f"tags.`{CELL}` = '{cell_id(folder)}'"
    for run in store.client.search_runs([store.experiment], query):  # newest first
        if run.data.tags.get(f"{DIGEST}train") in (None, wanted):
            return run
    return None


def _create_run(store: Store, folder: Path) -> "Run":
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    cell = Cell.read(folder / "config.json")
    split = _read(folder / "split.json")
    tags = {
        CELL: cell_id(folder),
        "semimae.split_sha256": _digest(folder / "split.json"),
        "mlflow.parentRunId": _parent_run(store),
        "mlflow.source.name": f"runs/{folder.name}",
        "mlflow.source.type": "JOB",
        **_provenance(store.root),
    }
    run = store.client.create_run(store.experiment, tags=tags, run_name=cell.name)
    identity = run.info.run_id
    values = _flatten(cell.model_dump()) | {"num_labeled": len(split["labeled"])}
    params = [Param(name, str(value)) for name, value in values.items()]
    for start in range(0, len(params), 100):  # MLflow's limit per request
        store.client.log_batch(identity, params=params[start : start + 100])
    source = json.dumps({"dataset": cell.dataset, "root": cell.data.root})
    images = Dataset(cell.dataset, split["fingerprint"][:36], "local", source)
    context = [InputTag("mlflow.data.context", "training")]
    store.client.log_inputs(identity, [DatasetInput(images, context)])
    return run


def _parent_run(store: Store) -> str:
    """Find or create the run of this invocation of the pipeline."""
    provenance = _provenance(store.root)
    name = os.environ.get("DVC_EXP_NAME")
    name = name or f"workspace@{provenance.get('mlflow.source.git.commit', 'uncommitted')[:7]}"
    with _lock(store.root):
        found = store.client.search_runs([store.experiment], f"tags.`{PIPELINE}` = '{name}'")
        if found:
            return str(found[0].info.run_id)
        tags = {PIPELINE: name, **provenance}
        return str(store.client.create_run(store.experiment, tags=tags, run_name=name).info.run_id)


def _provenance(root: Path) -> dict[str, str]:
    """Return the tags that say from where a run comes."""
    tags = {
        "mlflow.source.git.commit": git_commit(root),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp_baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
    }
    return {name: value for name, value in tags.items() if value}


def _log_rows(store: Store, run_id: str, rows: list[Row]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int(row["time_ms"]), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "time_ms")
    ]
    for start in range(0, len(metrics), BATCH):
        store.client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _artifacts(root: Path) -> str:
    return (root / "mlartifacts").resolve().as_uri()


def _lock(root: Path) -> FileLock:
    (root / ".semimae").mkdir(exist_ok=True)
    return FileLock(root / ".semimae" / "mlflow.lock", timeout=120)


def _digest(path: Path) -> str:
    """Hash a file, or a folder's curves, which are the same whenever the weights are."""
    files = [path] if path.is_file() else [path / "history.json", path / "validation.json"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _warn(error: Exception) -> None:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    warnings.warn(
        f"MLflow: {reason}; nothing is lost: `python -m pipeline sync-mlflow` logs it later",
        stacklevel=2,
    )
