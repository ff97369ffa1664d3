"""What is needed to judge and repeat the numbers: runs and provenance."""

from typing import Any

from pipeline.reporting import tables
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Section, Table, Text, count
from pipeline.reporting.compare import labels_of
from pipeline.reporting.rerun import grid_command
from pipeline.workspace import flat


def _at(index: int) -> Any:
    return lambda row: row[index]


def runs_section(a: Analysis) -> Section:
    """List the runs, those of a setting below each other."""
    grouped = (*a.grid.values(), *a.timed.values(), a.evidence.runs)
    found = list({run.cell_id: run for group in grouped for run in group}.values())
    search = "To find a run in any MLflow store, search for `tags.semimae.cell_id = 'CELL ID'`."
    unknown = sum(run.mlflow_run is None for run in found)
    mlflow = "Links to MLflow open while its UI runs (`make ui`, or your server)."
    if unknown:
        none = "No" if unknown == len(found) else "Not every"
        mlflow = (
            f"{none} run has been logged to MLflow from here, because results came from DVC's "
            "cache or a server was away. `python -m pipeline sync-mlflow` logs them; then run "
            "`dvc repro -f report`."
        )
    about = (
        "Names of settings in the tables above lead to their first seed here. Folders that hold "
        "the same run count once. The commit is the one that was checked out when the run was "
        "trained; the code is a hash of the library, which also shows changes that were not "
        "committed. All scores and ids are in ablation.csv."
    )
    return Section("runs", "Runs", [Text(f"{about} {mlflow} {search}"), tables.runs(a, found)])


def provenance_section(a: Analysis, commit: str | None) -> Section:
    """State data, splits, code, parameters, and what is missing."""
    params = a.evidence.params
    facts = _facts(a, commit)
    blocks: list[Block] = [
        Table("Data and code.", [Column("What", _at(0)), Column("Value", _at(1), "words")], facts)
    ]
    if a.fractions():
        blocks.append(_split_table(a))
    if missing := a.evidence.missing:
        columns = [
            Column("Run", lambda m: m.name),
            Column("Folder", lambda m: f"runs/{m.folder}"),
            Column("Why", lambda m: m.reason),
        ]
        blocks.append(Table("Missing runs.", columns, missing))
    if params is not None:
        rows = [(name, str(value)) for name, value in flat(params.model_dump(mode="json")).items()]
        columns = [Column("Parameter", _at(0)), Column("Value", _at(1), "words")]
        blocks.append(Table("params.yaml.", columns, rows, folded=True))
        blocks.append(
            Text(
                "Everything here is read from the stage files below runs/. `dvc repro` makes them "
                "and this report. To make the same grid, whatever params.yaml says by then: "
                f"`{grid_command(params)}`."
            )
        )
    return Section("provenance", "Provenance", blocks)


def _facts(a: Analysis, commit: str | None) -> list[tuple[str, str]]:
    facts = []
    if info := a.evidence.dataset:
        rows = ", ".join(f"{count(n)} {name}" for name, n in info.counts.items() if n)
        size = " \N{MULTIPLICATION SIGN} ".join(
            map(str, (info.image_size, info.image_size, info.channels))
        )
        facts += [
            ("Dataset", f"{info.name}, {info.num_classes} classes, {size} pixels"),
            ("Fingerprint", info.fingerprint),
            ("Images", rows),
            ("Images left out because they cannot be read", count(info.num_skipped)),
            ("Test images that are also in another split", count(info.duplicates_test_train)),
        ]
    return [*facts, ("Commit that was checked out for this report", commit or "none")]


def _split_table(a: Analysis) -> Table:
    runs = [a.run_of(fraction) for fraction in a.fractions()]
    return Table(
        "Images of each split.",
        [
            Column("Labels", lambda run: labels_of(run)),
            Column("Labeled", lambda run: run.num_labeled, "count"),
            Column("Unlabeled", lambda run: run.details and run.details.num_unlabeled, "count"),
            Column("Validation", lambda run: run.val_images, "count"),
        ],
        runs,
    )
