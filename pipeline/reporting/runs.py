"""Every run with its folder, commit and MLflow run: what the other tables link to."""

from pipeline.reporting.blocks import (
    NONE,
    Entry,
    Section,
    Table,
    Text,
    Value,
    count,
    duration,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.evidence import Result
from pipeline.reporting.study import Study


def runs_section(study: Study) -> Section:
    """List the runs, those of a setting below each other."""
    grouped = (*study.grid.values(), *study.timed.values(), study.evidence.results)
    results = list({r.identity: r for group in grouped for r in group}.values())
    words = (
        "Names of settings in the tables above lead here, to the first seed. Folders that hold the "
        "same run count once. Commit: what was checked out when the run was trained; code: a hash "
        "of the library, which also tells apart what was not committed. All scores and ids "
        "in full are in ablation.csv."
    )
    return Section(
        "runs",
        "Runs",
        [
            Text(words),
            Text(_about_mlflow(results)),
            Table(
                "Every run.",
                [
                    *text_columns("Run"),
                    *number_columns("Top-1 %", "Validation %", "Steps", "Images seen", "Time"),
                    *text_columns("Commit", "MLflow run", "Cell id", "Folders"),
                ],
                [_row(result) for result in results],
                anchors=[result.anchor for result in results],
            ),
        ],
    )


def run_link(result: Result) -> Value:
    """Return a run's name with a link to its row."""
    return Value(result.name, link=f"#{result.anchor}")


def _about_mlflow(results: list[Result]) -> str:
    search = "To find a run in any MLflow store, search for `tags.semimae.cell_id = 'CELL ID'`."
    unknown = sum(result.mlflow is None for result in results)
    words = "MLflow's links open while its UI runs (`make ui`, or your server)."
    if unknown:
        words = (
            f"{'No' if unknown == len(results) else 'Not every'} run has been logged to MLflow "
            "from here (results of DVC's cache, or a server that was away): `python -m pipeline "
            "sync-mlflow` does it, then `dvc repro -f report`."
        )
    return f"{words} {search}"


def _row(result: Result) -> list[Entry]:
    origin, run = result.origin, result.mlflow
    return [
        result.name,
        percent(result.scores["classifier"].top1.value),
        percent(result.val_top1),
        count(result.cell.train.steps),
        count(result.images_seen),
        duration(result.seconds),
        Value(
            origin.commit[:10] if origin.commit else NONE,
            f"code {origin.code}" if origin.code else "",
        ),
        Value(run.run_id[:8], link=run.address) if run else NONE,
        result.identity,
        ", ".join(f"runs/{folder.name}" for folder in result.folders),
    ]
