"""``sync-mlflow``: log what the tracking store misses."""

from pathlib import Path

import typer

from pipeline.progress import progress
from pipeline.tracking import finish_pipeline, publish
from pipeline.workspace import HEADLINE, RUNS, dvc_root
from semimae.cell import cell_id


def sync_mlflow() -> None:
    """Log every finished run under runs/, and the report, if the MLflow store lacks them.

    Safe to repeat. Needed after the tracking server was away, and for results that DVC restored
    from its cache.

    Example: python -m pipeline sync-mlflow
    """
    root = dvc_root()
    count = sync(root)
    reports = root / "reports"
    if (reports / "summary.json").is_file() and not finish_pipeline(
        root, root / RUNS / HEADLINE, reports
    ):
        raise typer.Exit(1)
    typer.echo(f"The store has all {count} finished runs.")


def sync(root: Path) -> int:
    """Publish each distinct finished cell and return their number.

    Raises:
        typer.Exit: With code 1, if the store does not answer; a warning says why.
    """
    paths = sorted(path.parent for path in root.glob(f"{RUNS}/*/train"))
    paths.sort(key=lambda path: path.name == HEADLINE)  # last: it wins over its twin in the grid
    # Without these two, `split` has to run first: DVC has removed what it will write.
    cells = [p for p in paths if (p / "config.json").is_file() and (p / "split.json").is_file()]
    folders = {cell_id(path): path for path in cells}
    with progress("MLflow", len(folders)) as update:
        for done, folder in enumerate(folders.values(), start=1):
            if not publish(folder, root):
                raise typer.Exit(1)
            update(done, folder.name)
    return len(folders)
