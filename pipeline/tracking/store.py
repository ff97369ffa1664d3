"""The connection to the tracking store, and the run of this invocation."""

import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from pipeline.workspace import git_commit
from semimae.params import Params, TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

Row = dict[str, float]
BATCH = 1000  # metrics per request, MLflow's limit
PIPELINE = "semimae.pipeline"  # tag of a parent run: the invocation


class Store(NamedTuple):
    """A connection to the tracking store."""

    client: "MlflowClient"
    experiment: str  # id
    root: Path
    config: TrackingConfig


def connect(root: Path) -> Store:
    """Open the tracking store and make sure that the experiment is there.

    Without MLFLOW_TRACKING_URI it is ``mlflow.db`` in the root, also from the temporary workspace
    of a queued experiment. Processes that open a fresh SQLite store at the same time destroy it,
    so a lock is held.
    """
    # An unreachable server would otherwise block for minutes per call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    remote, database = os.environ.get("MLFLOW_TRACKING_URI"), root / "mlflow.db"
    config = Params.read(root / "params.yaml").tracking
    name = config.experiment
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
    return Store(client, identity, root, config)


def parent_run(store: Store) -> str:
    """Find or create the run of this invocation of the pipeline."""
    provenance = provenance_of(store.root)
    name = os.environ.get("DVC_EXP_NAME")
    name = name or f"workspace@{provenance.get('mlflow.source.git.commit', 'uncommitted')[:7]}"
    with _lock(store.root):
        found = store.client.search_runs([store.experiment], f"tags.`{PIPELINE}` = '{name}'")
        if found:
            return str(found[0].info.run_id)
        tags = {PIPELINE: name, **provenance}
        return str(store.client.create_run(store.experiment, tags=tags, run_name=name).info.run_id)


def provenance_of(root: Path) -> dict[str, str]:
    """Return the tags that say from where a run comes."""
    tags = {
        "mlflow.source.git.commit": git_commit(root),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp_baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
    }
    return {name: value for name, value in tags.items() if value}


def log_rows(store: Store, run_id: str, rows: list[Row]) -> None:
    """Log rows of metrics with ``step`` and ``time_ms``; what the store has already is no harm."""
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
