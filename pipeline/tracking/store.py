"""The connection to the tracking store, and the run of this invocation."""

import contextlib
import json
import logging
import os
import re
import shutil
import sqlite3
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock

from pipeline.tracking.address import Address, address_of
from pipeline.tracking.places import KIND, check_files, follow_move
from pipeline.workspace import git_commit
from semimae.options.params import Params
from semimae.options.tracking import TrackingConfig
from semimae.types import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Row = dict[str, float]
BATCH = 1000  # metrics per request, MLflow's limit
PIPELINE = "semimae.pipeline"  # tag of the run that holds an invocation's report
NOTE = "mlflow.note.content"  # shown as the description in MLflow's UI
# The list of runs has no columns of scores until somebody chooses them, unless the page's address
# names a view that is stored like this, as MLflow's button for sharing one does.
_COLUMNS = (
    *("metrics.`test/classifier/top1`", "metrics.`val/top1`"),
    *("params.`method`", "params.`mask_ratio`", "params.`num_labeled`", "params.`seed`"),
)
_VIEW = {
    "selectedColumns": _COLUMNS,
    "orderByKey": _COLUMNS[0],
    "orderByAsc": False,
    # Not the report's run: compared with it, all parameters differ and no metric is common.
    "searchFilter": "params.method LIKE '%'",
}
_EXPERIMENT = {
    KIND: "custom_model_development",  # the UI then opens with the list of runs
    "mlflow.sharedViewState.scores": json.dumps(_VIEW),
}
_NOTE = (
    "**[See the scores](#/experiments/{0}/runs?viewStateShareKey=scores&workflowType="
    "machine_learning)**: all trainings, best first, with top-1 accuracy on test and validation "
    "images, method, mask ratio, labels and seed. **Compare:** select some there and click "
    "*Compare*; the parallel coordinates show what differs between them.\n\n"
    "Each setting and seed is a run, with its training curves and test scores. "
    "[All runs](#/experiments/{0}/runs?workflowType=machine_learning) also include those named "
    "`report ...`; each holds the report of an invocation, `reports/index.html`, as an artifact."
)
# MLflow's compare page draws the first metric of a run by default.
_FIRST = ("test/classifier/top1", "val/top1", "loss/total")


class Store(NamedTuple):
    """A connection to the tracking store."""

    client: "MlflowClient"
    experiment: str  # id
    root: Path
    address: Address
    location: str  # where the experiment keeps files
    config: TrackingConfig


def connect(root: Path) -> Store:
    """Open the tracking store, and create the experiment if it does not exist.

    Without MLFLOW_TRACKING_URI, the store is ``mlflow.db`` in the root, even in the temporary
    workspace of a queued experiment. A lock is held, because processes that open a fresh SQLite
    store at the same time destroy it.

    Raises:
        UserError: If retrying cannot help. The message says what to do.
        Exception: For any other failure of MLflow, the network or the disk.
    """
    config = Params.read(root / "params.yaml").tracking
    address, name = address_of(root), config.experiment
    with _lock(root):
        client = _open(address, name)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            identity = client.create_experiment(name, address.artifacts, _EXPERIMENT)
            client.set_experiment_tag(identity, NOTE, _NOTE.format(identity))
            experiment = client.get_experiment(identity)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {name!r} was deleted in MLflow; restore it with `MLFLOW_TRACKING_URI="
            f"{address.shown} mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}`, or set tracking.experiment to a new name."
        )
    location = experiment.artifact_location or ""
    return Store(client, experiment.experiment_id, root, address, location, config)


def open_store(root: Path) -> "tuple[MlflowClient, Address]":
    """Open the tracking store for reading. A local store is created if it does not exist."""
    experiment, address = Params.read(root / "params.yaml").tracking.experiment, address_of(root)
    with _lock(root):
        return _open(address, experiment), address


def _open(address: Address, experiment: str) -> "MlflowClient":
    # An unreachable server would otherwise block for minutes per call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it also logs what it raises
    if address.database is not None:
        if not address.database.exists():
            _create(address.database)
        elif before := follow_move(address.database, experiment):
            warnings.warn(
                f"MLflow: this project used to be in {before}; the paths in "
                f"{address.database.name} now point to {address.database.parent}",
                stacklevel=2,
            )
    return MlflowClient(address.uri, address.registry)


def invocation(origin: Mapping[str, str]) -> str:
    """Return the name of the pipeline invocation that produced a cell."""
    commit = origin.get("mlflow.source.git.commit")
    return origin.get("dvc.exp_name") or f"workspace@{commit[:7] if commit else 'uncommitted'}"


def report_run(store: Store, origin: Mapping[str, str]) -> str:
    """Find or create the run that holds an invocation's report.

    It is not the parent of the cells' runs: a cached cell belongs to several invocations, and
    MLflow collapses child runs, so its list and its charts would show a single run.
    """
    name = invocation(origin)
    with _lock(store.root):
        if found := runs_with_tag(store, PIPELINE, name):
            return str(found[0].info.run_id)
        source = {"mlflow.source.name": "reports/index.html", "mlflow.source.type": "JOB"}
        tags = {PIPELINE: name} | source | {k: v for k, v in origin.items() if k != "dvc.stage"}
        run = store.client.create_run(store.experiment, tags=tags, run_name=f"report {name}")
        return str(run.info.run_id)


def runs_with_tag(store: Store, tag: str, value: str) -> "list[Run]":
    """Return the experiment's runs that have exactly this tag, newest first.

    MLflow's filters cannot escape quotes, and the names of DVC experiments may contain both kinds.
    """
    like = re.sub(r"""['"`\\]""", "_", value)  # in LIKE, "_" matches any character
    found = store.client.search_runs([store.experiment], f"tags.`{tag}` LIKE '{like}'")
    return [run for run in found if run.data.tags.get(tag) == value]


def require_files(store: Store) -> None:
    """Check that the experiment's files can be written.

    Raises:
        UserError: If they cannot. The message says what to do.
    """
    check_files(store.location, store.address, store.config.experiment)


def provenance_of(root: Path) -> dict[str, str]:
    """Return the tags that record the origin of a run."""
    tags = {
        "mlflow.source.git.commit": git_commit(root),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.exp_baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
    }
    return {name: value for name, value in tags.items() if value}


def log_rows(store: Store, run_id: str, rows: list[Row]) -> None:
    """Log rows of metrics with ``step`` and ``time_ms``. Logging a row twice does no harm."""
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
    """Create a store atomically: neither SQLite nor MLflow can repair a half-made one."""
    from mlflow import MlflowClient

    folder = database.parent / ".semimae" / "mlflow.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        MlflowClient(f"sqlite:///{folder / database.name}").search_experiments(max_results=1)
        os.replace(folder / database.name, database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the folder may contain other files
            folder.parent.rmdir()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not block the writer


def _lock(root: Path) -> FileLock:
    (root / ".semimae").mkdir(exist_ok=True)
    return FileLock(root / ".semimae" / "mlflow.lock", timeout=120)
