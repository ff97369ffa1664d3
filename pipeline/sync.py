"""``sync-mlflow``: log what is missing from the tracking store."""

from pathlib import Path

import typer

from pipeline.progress import progress
from pipeline.tracking import finish_pipeline, publish
from pipeline.workspace import HEADLINE, RUNS, dvc_root, run_folders
from semimae.options.cell import cell_id
from semimae.options.params import Params


def sync_mlflow() -> None:
    """Log finished runs and the report that MLflow lacks.

    It is safe to repeat. Use it after the tracking server was unavailable, and for results that DVC
    restored from its cache.

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
    """Publish each distinct finished cell, and return how many there are.

    Raises:
        typer.Exit: With code 1 if the store does not answer. A warning gives the reason.
    """
    folders: dict[str, Path] = {}
    for path in run_folders(root, Params.read(root / "params.yaml")):
        # If one is missing, `split` must run first: DVC has removed what it will write.
        needed = (path / "config.json", path / "split.json")
        if (path / "train").is_dir() and all(file.is_file() for file in needed):
            folders.setdefault(cell_id(path), path)
    with progress("MLflow", len(folders)) as update:
        for done, folder in enumerate(folders.values(), start=1):
            if not publish(folder, root):
                raise typer.Exit(1)
            update(done, folder.name)
    return len(folders)
