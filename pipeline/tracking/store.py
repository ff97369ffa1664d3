"""The connection to the tracking store, and the run of this invocation."""

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline.workspace import git_commit
from semimae.options.params import Params, TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

Row = dict[str, float]
BATCH = 1000  # metrics per request, MLflow's limit
PIPELINE = "semimae.pipeline"  # tag of the run that holds an invocation's report
NOTE = "mlflow.note.content"  # what MLflow's pages show as description
_EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",  # its pages begin with the runs
    NOTE: (
        "One run per setting and seed, with training curves (`loss/`, `val/`, `pseudo/`, "
        "`gradient/`) and test scores (`test/`); and per invocation one run with the report as "
        "artifact. Runs of the same method and labels are comparable by `seed`."
    ),
}
# The first metric of a run is what MLflow's compare page draws unasked.
_FIRST = ("test/classifier/top1", "val/top1", "loss/total")


class Store(NamedTuple):
    """A connection to the tracking store."""

    client: "MlflowClient"
    experiment: str  # id
    root: Path
    ui: str  # address of its pages
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
        if not (remote or database.exists()):
            _create(database)
        client = MlflowClient(remote or f"sqlite:///{database}")
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            identity = client.create_experiment(
                name, None if remote else _artifacts(root), _EXPERIMENT
            )
        else:
            identity = experiment.experiment_id
    return Store(client, identity, root, _ui(remote), config)


def invocation(origin: Mapping[str, str]) -> str:
    """Return the name of the invocation of the pipeline from which a cell comes."""
    commit = origin.get("mlflow.source.git.commit")
    return origin.get("dvc.exp_name") or f"workspace@{commit[:7] if commit else 'uncommitted'}"


def report_run(store: Store, origin: Mapping[str, str]) -> str:
    """Find or create the run that holds an invocation's report.

    It is no parent of the cells' runs. A cell that is cached belongs to several invocations, and
    MLflow folds children away: its list and its charts would show one run.
    """
    name = invocation(origin)
    with _lock(store.root):
        found = store.client.search_runs([store.experiment], f"tags.`{PIPELINE}` = '{name}'")
        if found:
            return str(found[0].info.run_id)
        tags = {PIPELINE: name} | {k: v for k, v in origin.items() if k != "dvc.stage"}
        run = store.client.create_run(store.experiment, tags=tags, run_name=f"report {name}")
        return str(run.info.run_id)


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
    metrics.sort(key=lambda m: _FIRST.index(m.key) if m.key in _FIRST else len(_FIRST))
    for start in range(0, len(metrics), BATCH):
        store.client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _create(database: Path) -> None:
    """Make a fresh store, whole or not at all: SQLite and MLflow cannot mend one half made."""
    from mlflow import MlflowClient

    folder = database.parent / ".semimae" / "mlflow.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        MlflowClient(f"sqlite:///{folder / database.name}").search_experiments(max_results=1)
        os.replace(folder / database.name, database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not block the writer


def _ui(remote: str | None) -> str:
    """Return the address of MLflow's pages: the server's without its password, or `make ui`'s."""
    if remote is None or not remote.startswith(("http://", "https://")):
        return "http://127.0.0.1:5000"
    address = urlsplit(remote)
    return address._replace(netloc=address.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _artifacts(root: Path) -> str:
    return (root / "mlartifacts").resolve().as_uri()


def _lock(root: Path) -> FileLock:
    (root / ".semimae").mkdir(exist_ok=True)
    return FileLock(root / ".semimae" / "mlflow.lock", timeout=120)
