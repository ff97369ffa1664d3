"""The run of a cell: find or create it, and update it to match the stage files."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.store import (
    NOTE,
    Store,
    invocation,
    log_rows,
    provenance_of,
    report_run,
    require_files,
    runs_with_tag,
)
from pipeline.workspace import (
    MACHINE,
    ORIGIN,
    digest,
    flat,
    mlflow_record,
    read_json,
    report_record,
    write_json,
)
from semimae.options.cell import Cell, cell_id
from semimae.options.grid import GridPoint

if TYPE_CHECKING:
    from mlflow.entities import Run

CELL, DIGEST = "semimae.cell_id", "semimae.digest."  # tags; the name of a stage follows the second
DESCRIBED = "semimae.described"  # tag, set once parameters and dataset are logged
EVALUATIONS = ("linear_probe", "fine_tune")
_LONGEST_NOTE = 4900  # characters; MLflow's limit for a tag is 5000


def publish_files(store: Store, run: "Run", folder: Path) -> None:
    """Log the stage files whose digest is not in the run's tags; end the run if it is trained."""
    identity, logged = run.info.run_id, run.data.tags
    if DESCRIBED not in logged:
        _describe(store, identity, folder)
    for stage in EVALUATIONS:  # before training, because of the order of metrics in `store`
        path = folder / f"{stage}.json"
        if path.is_file() and logged.get(f"{DIGEST}{stage}") != (seen := digest(path)):
            scores = {f"test/{name}": value for name, value in scores_in(path).items()}
            step = {"step": 0, "time_ms": time.time_ns() // 1_000_000}
            log_rows(store, identity, [scores | step])
            store.client.set_tag(identity, f"{DIGEST}{stage}", seen)
    train = folder / "train"
    if not train.is_dir():
        return
    times = read_json(train / "timing.json")
    if logged.get(f"{DIGEST}train") != (seen := digest(train)):
        rows = read_json(train / "history.json") + read_json(train / "validation.json")
        log_rows(store, identity, [r | t for r, t in zip(rows, times, strict=True)])
        for name, value in _machine_tags(train).items():
            store.client.set_tag(identity, name, value)
        store.client.set_tag(identity, f"{DIGEST}train", seen)
    end = max(int(row["time_ms"]) for row in times)  # the run lasts as long as the training
    store.client.set_terminated(identity, "FINISHED", end)
    record = {
        "run_id": identity,
        "experiment_id": store.experiment,
        "ui": store.address.pages,
        "weights": digest(train),  # another run of the same cell may hold others
    }
    write_json(mlflow_record(store.root, cell_id(folder)), record)


def scores_in(path: Path) -> dict[str, float]:
    """Return the scores in an evaluation's file as ``PROTOCOL/NAME``."""
    return {
        f"{protocol}/{name}": value["value"] if isinstance(value, dict) else value
        for protocol, result in read_json(path)["protocols"].items()
        for name, value in result.items()
        if name in ("top1", "top5", "ece", "nll") and value is not None
    }


def publish_report(store: Store, headline: Path, reports: Path) -> None:
    """Log the headline's scores and the report to the invocation's run, and end the run."""
    record = report_record(store.root, reports)
    origin = read_json(record) if record.is_file() else origin_of(store.root, headline)
    run = report_run(store, origin)
    seen = digest(reports / "summary.json")
    if store.client.get_run(run).data.tags.get(f"{DIGEST}report") != seen:
        require_files(store)
        store.client.log_artifacts(run, str(reports), "reports")
        store.client.set_tag(run, NOTE, _answer(reports / "report.md"))
        files = [path for stage in EVALUATIONS if (path := headline / f"{stage}.json").is_file()]
        scores = {f"headline/{k}": v for path in files for k, v in scores_in(path).items()}
        log_rows(store, run, [scores | {"step": 0, "time_ms": time.time_ns() // 1_000_000}])
        store.client.set_tag(run, f"{DIGEST}report", seen)
    store.client.set_terminated(run, "FINISHED")


def find_run(store: Store, folder: Path) -> "Run | None":
    """Find the run of the cell that trained these exact weights, or that has not finished."""
    wanted = digest(folder / "train") if (folder / "train").is_dir() else None
    for run in runs_with_tag(store, CELL, cell_id(folder)):
        if run.data.tags.get(f"{DIGEST}train") in (None, wanted):
            return run
    return None


def create_run(store: Store, folder: Path) -> "Run":
    """Create the run of a cell."""
    cell = Cell.read(folder / "config.json")
    origin = origin_of(store.root, folder)
    tags = {
        CELL: cell_id(folder),
        "semimae.split_sha256": digest(folder / "split.json"),
        "semimae.invocation": invocation(origin),
        "mlflow.source.name": f"runs/{folder.name}",
        "mlflow.source.type": "JOB",
        NOTE: _note(cell, folder),
        **origin,
    }
    point = GridPoint.parse(folder.name)
    name = cell.name + (point.note if point else "")
    run = store.client.create_run(store.experiment, _start(folder), tags, name)
    _describe(store, run.info.run_id, folder)  # now, so that a run in progress shows its dataset
    return store.client.get_run(run.info.run_id)


def origin_of(root: Path, folder: Path) -> dict[str, str]:
    """Return the tags that say where a cell was trained, or where it is about to be."""
    path = folder / "train" / ORIGIN
    return dict(read_json(path)) if path.is_file() else provenance_of(root)


def parameters(cell: Cell) -> dict[str, Any]:
    """Return a cell's values under the keys of params.yaml."""
    tree = cell.model_dump()
    options = tree.pop("options")
    tree["method"] = options.pop("name")
    if mim := options.pop("mim", None):
        tree |= {"mask_ratio": mim["mask_ratio"], "mim": mim["branch"]}
    hashes = options.pop("teachers_sha256", ())
    tree |= {"teachers_sha256": hashes} if hashes else {}
    if tree["backbone"].get("lora", ...) is None:  # of another tuning
        del tree["backbone"]["lora"]
    for section, values in options.items():
        tree[section] = tree.get(section, {}) | values
    return flat(tree)


def _describe(store: Store, identity: str, folder: Path) -> None:
    """Log a cell's parameters and its dataset. It is safe to repeat this after a failure."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    cell = Cell.read(folder / "config.json")
    split = read_json(folder / "split.json")
    values = parameters(cell) | {"num_labeled": len(split["labeled"])}
    params = [Param(name, str(value)) for name, value in values.items() if value is not None]
    for start in range(0, len(params), 100):  # MLflow's limit per request
        store.client.log_batch(identity, params=params[start : start + 100])
    source = json.dumps({"dataset": cell.dataset})
    images = Dataset(cell.dataset, split["fingerprint"][:36], "local", source)
    context = [InputTag("mlflow.data.context", "training")]
    store.client.log_inputs(identity, [DatasetInput(images, context)])
    store.client.set_tag(identity, DESCRIBED, "yes")


def _start(folder: Path) -> int | None:
    """Return when a cell began to train, in ms, or None if it has not been trained."""
    path = folder / "train" / "timing.json"
    if not path.is_file():
        return None
    return min(int(row["time_ms"] - 1000 * row["seconds"]) for row in read_json(path))


def _machine_tags(train: Path) -> dict[str, str]:
    path = train / MACHINE
    found = read_json(path) if path.is_file() else {}
    names = ("code", "device", "flops")
    return {f"semimae.{name}": str(found[name]) for name in names if found.get(name) is not None}


def _note(cell: Cell, folder: Path) -> str:
    split = read_json(folder / "split.json")
    ratio = "" if cell.mask_ratio is None else f", mask ratio {cell.mask_ratio:g}"
    return (
        f"`{cell.method}` on {cell.dataset}{ratio}: {len(split['labeled'])} labeled and "
        f"{split['num_unlabeled']} unlabeled images, {cell.train.steps} steps, seed {cell.seed}."
        f"\n\nFiles are in `runs/{folder.name}/`, test scores in `test/PROTOCOL/`. The report "
        "compares the runs: `reports/index.html`, also an artifact of the run named `report ...`."
    )


def _answer(report: Path) -> str:
    """Return the report's first section, as the description of the run that holds it."""
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    return "\n".join(text.split("\n## ")[1:2])[:_LONGEST_NOTE]
