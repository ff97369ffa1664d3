"""The run of a cell: found or made, and brought to what the stage files say."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.store import NOTE, Store, invocation, log_rows, provenance_of
from pipeline.workspace import digest, mlflow_record, write_json
from semimae.cell import Cell, cell_id

if TYPE_CHECKING:
    from mlflow.entities import Run

CELL, DIGEST = "semimae.cell_id", "semimae.digest."  # tags; the second: + stage
EVALUATIONS = ("linear_probe", "fine_tune")


def publish_files(store: Store, run: "Run", folder: Path) -> None:
    """Log the stage files whose digest is not among the run's tags, and end the run."""
    identity, logged = run.info.run_id, run.data.tags
    train = folder / "train"
    for stage in EVALUATIONS:  # before training: see the order of metrics in `store`
        path = folder / f"{stage}.json"
        if path.is_file() and logged.get(f"{DIGEST}{stage}") != (seen := digest(path)):
            scores = {
                f"test/{protocol}/{name}": value["value"] if isinstance(value, dict) else value
                for protocol, result in _read(path)["protocols"].items()
                for name, value in result.items()
                if name in ("top1", "top5", "ece", "nll") and value is not None
            }
            step = {"step": 0, "time_ms": time.time_ns() // 1_000_000}
            log_rows(store, identity, [scores | step])
            store.client.set_tag(identity, f"{DIGEST}{stage}", seen)
    if not train.is_dir():
        return
    times = _read(train / "timing.json")
    if logged.get(f"{DIGEST}train") != (seen := digest(train)):
        rows = _read(train / "history.json") + _read(train / "validation.json")
        log_rows(store, identity, [r | t for r, t in zip(rows, times, strict=True)])
        for name, value in _origin_tags(folder).items():
            store.client.set_tag(identity, name, value)
        store.client.set_tag(identity, f"{DIGEST}train", seen)
    end = max(int(row["time_ms"]) for row in times)  # so that its duration is that of training
    store.client.set_terminated(identity, "FINISHED", end)
    record = {
        "run_id": identity,
        "experiment_id": store.experiment,
        "ui": store.ui,
        "weights": digest(train),  # a run of the same cell may hold others
    }
    write_json(mlflow_record(store.root, cell_id(folder)), record)


def find_run(store: Store, folder: Path) -> "Run | None":
    """Find the run of the cell: one that trained these very weights, or has not finished."""
    wanted = digest(folder / "train") if (folder / "train").is_dir() else None
    query = f"tags.`{CELL}` = '{cell_id(folder)}'"
    for run in store.client.search_runs([store.experiment], query):  # newest first
        if run.data.tags.get(f"{DIGEST}train") in (None, wanted):
            return run
    return None


def create_run(store: Store, folder: Path) -> "Run":
    """Make the run of a cell: its parameters, its dataset, and from where it comes."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    cell = Cell.read(folder / "config.json")
    split = _read(folder / "split.json")
    tags = {
        CELL: cell_id(folder),
        "semimae.split_sha256": digest(folder / "split.json"),
        "semimae.invocation": invocation(store),
        "mlflow.source.name": f"runs/{folder.name}",
        "mlflow.source.type": "JOB",
        NOTE: _note(cell, folder, split),
        **provenance_of(store.root),
    }
    run = store.client.create_run(store.experiment, _start(folder), tags, cell.name)
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


def _start(folder: Path) -> int | None:
    """Return when a trained cell began to train, in ms; None: now."""
    path = folder / "train" / "timing.json"
    if not path.is_file():
        return None
    return min(int(row["time_ms"] - 1000 * row["seconds"]) for row in _read(path))


def _origin_tags(folder: Path) -> dict[str, str]:
    """Return the tags that say which code and which machine made the weights."""
    path = folder / "train" / "origin.json"
    if not path.is_file():
        return {}
    origin = _read(path)
    names = {"commit": "mlflow.source.git.commit", "code": "semimae.code"}
    names |= {"device": "semimae.device", "flops": "semimae.flops"}
    return {tag: str(origin[key]) for key, tag in names.items() if origin[key] is not None}


def _note(cell: Cell, folder: Path, split: dict[str, Any]) -> str:
    ratio = "" if cell.mask_ratio is None else f", mask ratio {cell.mask_ratio:g}"
    return (
        f"`{cell.method}` on {cell.dataset}{ratio}: {len(split['labeled'])} labelled and "
        f"{split['num_unlabeled']} unlabelled images, seed {cell.seed}.\n\n"
        f"Files: `runs/{folder.name}/`. Test scores: `test/PROTOCOL/`. Compared with the others in "
        "`reports/index.html`, which is also an artifact of the run named `report ...`."
    )


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
