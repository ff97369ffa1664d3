"""Where a report's runs come from: stage files, or the table that is kept of a finished grid."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.reporting.runs import Evidence, Missing, Origin, Row, Run
from pipeline.tracking.address import PAGES, local_pages
from pipeline.workspace import (
    HEADLINE,
    MACHINE,
    ORIGIN,
    PREDICTIONS,
    PREPARED,
    RUNS,
    digest,
    dvc_root,
    grid_folders,
    mlflow_record,
    read_json,
)
from semimae.data.store import INFO, DatasetInfo
from semimae.evaluation.metrics import Example, Scores
from semimae.options.cell import Cell, cell_id
from semimae.options.grid import BUDGETS, PLAIN, GridPoint
from semimae.options.params import Params
from semimae.types import UserError

_NEEDED = {
    "split.json": "no split",
    "train/timing.json": "not trained",
    "linear_probe.json": "trained, not scored",
}


def read_evidence(root: Path, params: Params) -> Evidence:
    """Read the runs that the params ask for; folders of anything else are ignored.

    Raises:
        UserError: If no run is finished.
    """
    info = root / PREPARED / INFO
    dataset = DatasetInfo.model_validate_json(info.read_bytes()) if info.is_file() else None
    asked = params.grid()
    there, headline_folder = grid_folders(root), root / RUNS / HEADLINE
    held = {folder: _cell_in(folder) for folder in (*there.values(), headline_folder)}

    def first_finished(cell: Cell, points: list[GridPoint]) -> Run | str:
        # Folders of an earlier grid may hold it too, but nothing keeps them up to date.
        folders = [*(there[point] for point in points if point in there), headline_folder]
        return _first_finished(cell, [f for f in folders if held[f] == cell], dataset)

    found = {cell: first_finished(cell, points) for cell, points in asked.items()}
    missing = [
        Missing(cell, cell.name + first.note, first.folder, reason)
        for cell, (first, *_) in asked.items()
        if isinstance(reason := found[cell], str)
    ]
    equal_steps, timed = (
        [
            run.model_copy(update={"budget": first.budget, "variant": first.variant})
            for cell, (first, *_) in params.grid(budget).items()
            if isinstance(run := found[cell], Run)
        ]
        for budget in BUDGETS
    )
    cell = params.cell()
    headline = first_finished(cell, [])
    if not isinstance(headline, Run):
        missing.insert(0, Missing(cell, f"headline: {cell.name}", HEADLINE, headline))
    if not equal_steps and not timed and not isinstance(headline, Run):
        raise UserError("runs/ holds no finished run that params.yaml asks for; run `dvc repro`.")
    names = params.ablation.baseline.variant
    return Evidence(
        name=params.dataset,
        asked=(cell.method, cell.mask_ratio, cell.label_fraction),
        grid=[run for run in equal_steps if run.variant not in names],
        baselines=[run for run in equal_steps if run.variant in names],
        timed=timed,
        headline=headline if isinstance(headline, Run) else None,
        missing=tuple(missing),
        params=params,
        dataset=dataset,
    )


def read_kept(folder: Path) -> Evidence:
    """Read what ``keep-results`` left of a finished grid: ``ablation.csv`` and ``about.json``."""
    about = read_json(folder / "about.json")
    with (folder / "ablation.csv").open(encoding="utf-8", newline="") as file:
        rows = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    runs = []
    for row in rows:
        # Tables of earlier versions have no such columns: they are of CPUs.
        budget = "time" if "time" in row["folder"].split("-") else "images"
        old = {"budget": budget, "device": "cpu", "device_hours": float(row["cpu_seconds"]) / 3600}
        run = Run.model_validate(old | row, strict=False)
        runs.append(run.model_copy(update={"origin": Origin(run.commit, device=run.device)}))
    baselines = about["baselines"]
    steps = [run for run in runs if run.budget == "images"]
    timed = [run for run in runs if run.budget == "time"]
    if timed:  # a method whose factor is 1 has the same runs for both budgets
        own = {run.method for run in timed}
        timed += [run for run in steps if run.method not in own and run.variant == PLAIN]
    return Evidence(
        name=about["dataset"],
        asked=(about["method"], about["mask_ratio"], about["label_fraction"]),
        grid=[run for run in steps if run.variant not in baselines],
        baselines=[run for run in steps if run.variant in baselines],
        timed=timed,
    )


def last(rows: Iterable[Row], key: str) -> float | None:
    """Return the last logged value of a metric, if the method logs it."""
    return next((row[key] for row in reversed(list(rows)) if key in row), None)


def _cell_in(folder: Path) -> Cell | None:
    try:
        return Cell.read(folder / "config.json").as_asked
    except UserError:  # missing, or of another version
        return None


def _first_finished(cell: Cell, folders: list[Path], dataset: DatasetInfo | None) -> Run | str:
    """Return the cell's run from the first of its folders that has it, or why none has."""
    reason = "not started"
    for folder in folders:
        lacking = [why for name, why in _NEEDED.items() if not (folder / name).is_file()]
        if lacking:
            reason = lacking[0]
            continue
        split = read_json(folder / "split.json")
        if dataset is not None and split["fingerprint"] != dataset.fingerprint:
            reason = "made from another version of the dataset"
            continue
        identity = cell_id(folder)
        others = [f for f in folders if f != folder and (f / "split.json").is_file()]
        same = [f for f in others if cell_id(f) == identity]
        try:
            return _read(cell, identity, (folder, *same), split)
        except (KeyError, ValidationError, FileNotFoundError):
            reason = "scored by another version of the code"
    return reason


def _read(cell: Cell, identity: str, folders: tuple[Path, ...], split: dict[str, Any]) -> Run:
    folder, train = folders[0], folders[0] / "train"
    phases = read_json(train / "phases.json") if (train / "phases.json").is_file() else []
    probed = read_json(folder / "linear_probe.json")
    protocols = probed["protocols"]
    if (tuned := folder / "fine_tune.json").is_file():
        protocols |= read_json(tuned)["protocols"]
    scores = {name: Scores.model_validate(value) for name, value in protocols.items()}
    frozen = probed.get("frozen", {}).get("protocols", {})
    timing, origin = read_json(train / "timing.json"), read_origin(train)
    history, validation = (read_json(train / f"{name}.json") for name in ("history", "validation"))
    run_id, address = _mlflow_run(train, identity)
    (folder / PREDICTIONS).stat()  # is read when it is needed

    def spent(clock: str) -> float:
        return float(sum(phase[clock] for phase in phases) + max(row[clock] for row in timing))

    seconds, cpu_seconds = spent("seconds"), spent("cpu_seconds")
    counted = cpu_seconds if origin.device == "cpu" else seconds
    earlier_images = sum(phase["images"] for phase in phases)
    return Run(
        method=cell.method,
        mask_ratio=cell.mask_ratio,
        label_fraction=cell.label_fraction,
        num_labels=cell.num_labels,
        num_labeled=len(split["labeled"]),
        seed=cell.seed,
        linear_probe=scores["linear_probe"].top1.value,
        knn=scores["knn"].top1.value,
        top1=scores["classifier"].top1.value,
        ece=scores["classifier"].ece.value,
        nll=scores["classifier"].nll,
        val_top1=validation[-1]["val/top1"],
        pseudo_accuracy_final=last(history, "pseudo/accuracy"),
        pseudo_coverage_final=last(history, "pseudo/coverage"),
        val_pseudo_accuracy_final=last(validation, "val/pseudo_accuracy"),
        val_pseudo_coverage_final=last(validation, "val/pseudo_coverage"),
        val_images=len(split["val"]) + sum(map(len, split.get("folds", ()))),
        folds=len(split.get("folds", ())),
        steps=cell.train.steps,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        images_seen=earlier_images + cell.train.steps * cell.images_per_step,
        device=origin.device,
        device_hours=counted / 3600 * (origin.processes or 1),
        flops=origin.flops,
        commit=origin.commit,
        mlflow_run=run_id,
        cell_id=identity,
        folder=f"runs/{folder.name}",
        folders=folders,
        cell=cell,
        num_unlabeled=split["num_unlabeled"],
        scores=scores,
        frozen={n: Scores.model_validate(v) for n, v in frozen.items()},
        pool=probed["pool"],
        temperature=probed["temperature"],
        history=history,
        validation=validation,
        origin=origin,
        mlflow=address,
        examples=[Example.model_validate(example) for example in probed["examples"]],
    )


def read_origin(train: Path) -> Origin:
    """Read what the training stage has noted."""
    found: dict[str, Any] = {}
    for name in (ORIGIN, MACHINE):
        path = train / name
        found |= read_json(path) if path.is_file() else {}
    commit = found.get("mlflow.source.git.commit")
    return Origin(commit, **{name: found.get(name) for name in Origin._fields if name != "commit"})


def _mlflow_run(train: Path, identity: str) -> tuple[str | None, str | None]:
    """Return the run that these very weights were logged to, if they were from this machine."""
    record = mlflow_record(dvc_root(), identity)
    found = read_json(record) if record.is_file() else None
    if found is None or found["weights"] != digest(train):
        return None, None
    if found["ui"] == PAGES:
        found["ui"] = local_pages(dvc_root())
    address = "{ui}/#/experiments/{experiment_id}/runs/{run_id}".format(**found)
    return found["run_id"], address
