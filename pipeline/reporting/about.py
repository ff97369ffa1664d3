"""What is needed to judge and repeat the numbers: runs and provenance."""

from pipeline.reporting import tables
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Table, Text, table_of
from pipeline.reporting.compare import labels_of
from pipeline.reporting.formats import count
from pipeline.reporting.rerun import grid_command
from pipeline.workspace import flat


def runs(a: Analysis) -> list[Block]:
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
    return [Text(f"{about} {mlflow} {search}"), tables.runs(a, found)]


def provenance(a: Analysis, commit: str | None) -> list[Block]:
    """State data, splits, code, parameters, and what is missing."""
    facts = _dataset(a) | {"Commit that was checked out for this report": commit or "none"}
    missing = [
        {"Run": m.name, "Folder": f"runs/{m.folder}", "Why": m.reason} for m in a.evidence.missing
    ]
    params, text, values = a.evidence.params, "", {}
    if params is not None:
        values = flat(params.model_dump(mode="json"))
        text = (
            "Everything here is read from the stage files below runs/. `dvc repro` makes them and "
            "this report. To make the same grid, whatever params.yaml says by then: "
            f"`{grid_command(params)}`."
        )
    return [
        _pairs("Data and code.", "What", facts),
        _splits(a),
        table_of("Missing runs.", {"Run": "text", "Folder": "text", "Why": "text"}, missing),
        _pairs("params.yaml.", "Parameter", values, folded=True),
        Text(text),
    ]


def _pairs(caption: str, name: str, values: dict[str, str], *, folded: bool = False) -> Table:
    rows = [{name: key, "Value": str(value)} for key, value in values.items()]
    return table_of(caption, {name: "text", "Value": "words"}, rows, folded=folded)


def _dataset(a: Analysis) -> dict[str, str]:
    info = a.evidence.dataset
    if info is None:
        return {}
    size = " \N{MULTIPLICATION SIGN} ".join(
        map(str, (info.image_size, info.image_size, info.channels))
    )
    return {
        "Dataset": f"{info.name}, {info.num_classes} classes, {size} pixels",
        "Fingerprint": info.fingerprint,
        "Images": ", ".join(f"{count(n)} {name}" for name, n in info.counts.items() if n),
        "Images left out because they cannot be read": count(info.num_skipped),
        "Test images that are also in another split": count(info.duplicates_test_train),
    }


def _splits(a: Analysis) -> Table:
    rows = [
        {
            "Labels": labels_of(run),
            "Labeled": run.num_labeled,
            "Unlabeled": run.num_unlabeled,
            "Validation": run.val_images,
        }
        for run in map(a.run_of, a.fractions())
    ]
    kinds = {"Labels": "text", "Labeled": "count", "Unlabeled": "count", "Validation": "count"}
    return table_of("Images of each split.", kinds, rows)
