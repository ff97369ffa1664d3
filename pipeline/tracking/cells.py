"""The run of a cell: found or made, and brought to what the stage files say."""

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.store import Store, log_rows, parent_run, provenance_of
from semimae.cell import Cell, cell_id

if TYPE_CHECKING:
    from mlflow.entities import Run

CELL, DIGEST = "semimae.cell_id", "semimae.digest."  # tags; the second: + stage
DESCRIBED = "semimae.described"  # tag, set when parameters and dataset are logged
ORIGIN = "origin.json"  # in the folder of stage `train`: the tags that say from where it comes
EVALUATIONS = ("linear_probe", "fine_tune")


def publish_files(store: Store, run: "Run", folder: Path) -> None:
    """Log the stage files whose digest is not among the run's tags."""
    identity, logged = run.info.run_id, run.data.tags
    if DESCRIBED not in logged:
        _describe(store, identity, folder)
    train = folder / "train"
    if train.is_dir() and logged.get(f"{DIGEST}train") != (digest := _digest(train)):
        rows = _read(train / "history.json") + _read(train / "validation.json")
        times = _read(train / "timing.json")
        log_rows(store, identity, [r | t for r, t in zip(rows, times, strict=True)])
        store.client.set_tag(identity, f"{DIGEST}train", digest)
    for stage in EVALUATIONS:
        path = folder / f"{stage}.json"
        if path.is_file() and logged.get(f"{DIGEST}{stage}") != (digest := _digest(path)):
            scores = {f"test/{name}": value for name, value in scores_in(path).items()}
            step = {"step": 0, "time_ms": time.time_ns() // 1_000_000}
            log_rows(store, identity, [scores | step])
            store.client.set_tag(identity, f"{DIGEST}{stage}", digest)


def scores_in(path: Path) -> dict[str, float]:
    """Return the scores in an evaluation's file as ``PROTOCOL/NAME``."""
    return {
        f"{protocol}/{name}": value["value"] if isinstance(value, dict) else value
        for protocol, result in _read(path)["protocols"].items()
        for name, value in result.items()
        if name in ("top1", "top5", "ece", "nll") and value is not None
    }


def publish_report(store: Store, headline: Path, reports: Path) -> None:
    """Give the parent run of the headline its scores and the report, and end it."""
    parent = parent_run(store, origin_of(store.root, headline))
    digest = _digest(reports / "summary.json")
    if store.client.get_run(parent).data.tags.get(f"{DIGEST}report") != digest:
        store.client.log_artifacts(parent, str(reports), "reports")
        files = [path for stage in EVALUATIONS if (path := headline / f"{stage}.json").is_file()]
        scores = {f"headline/{k}": v for path in files for k, v in scores_in(path).items()}
        log_rows(store, parent, [scores | {"step": 0, "time_ms": time.time_ns() // 1_000_000}])
        store.client.set_tag(parent, f"{DIGEST}report", digest)
    store.client.set_terminated(parent, "FINISHED")


def find_run(store: Store, folder: Path) -> "Run | None":
    """Find the run of the cell: one that trained these very weights, or has not finished."""
    wanted = _digest(folder / "train") if (folder / "train").is_dir() else None
    query = f"tags.`{CELL}` = '{cell_id(folder)}'"
    for run in store.client.search_runs([store.experiment], query):  # newest first
        if run.data.tags.get(f"{DIGEST}train") in (None, wanted):
            return run
    return None


def create_run(store: Store, folder: Path) -> "Run":
    """Make the run of a cell."""
    cell = Cell.read(folder / "config.json")
    origin = origin_of(store.root, folder)
    tags = {
        CELL: cell_id(folder),
        "semimae.split_sha256": _digest(folder / "split.json"),
        "mlflow.parentRunId": parent_run(store, origin),
        "mlflow.source.name": f"runs/{folder.name}",
        "mlflow.source.type": "JOB",
        **origin,
    }
    return store.client.create_run(store.experiment, tags=tags, run_name=cell.name)


def origin_of(root: Path, folder: Path) -> dict[str, str]:
    """Return the tags that say where a cell was trained: here and now, if it has not been yet."""
    path = folder / "train" / ORIGIN
    return _read(path) if path.is_file() else provenance_of(root)


def _describe(store: Store, identity: str, folder: Path) -> None:
    """Log a cell's parameters and its dataset. Safe to repeat, after a failure half-way."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    cell = Cell.read(folder / "config.json")
    split = _read(folder / "split.json")
    values = _flatten(cell.model_dump()) | {"num_labeled": len(split["labeled"])}
    params = [Param(name, str(value)) for name, value in values.items()]
    for start in range(0, len(params), 100):  # MLflow's limit per request
        store.client.log_batch(identity, params=params[start : start + 100])
    source = json.dumps({"dataset": cell.dataset, "root": cell.data.root})
    images = Dataset(cell.dataset, split["fingerprint"][:36], "local", source)
    context = [InputTag("mlflow.data.context", "training")]
    store.client.log_inputs(identity, [DatasetInput(images, context)])
    store.client.set_tag(identity, DESCRIBED, "yes")


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
