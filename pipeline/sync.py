"""``sync-mlflow``: log what the tracking store misses."""

import typer

from pipeline.tracking import publish
from pipeline.workspace import RUNS, dvc_root
from semimae.cell import cell_id


def sync_mlflow() -> None:
    """Log every finished run under runs/ that the MLflow store does not have. Safe to repeat.

    Needed after the tracking server was away, and for results that DVC restored from its cache.

    Example: python -m pipeline sync-mlflow
    """
    root = dvc_root()
    folders = {cell_id(path.parent): path.parent for path in sorted(root.glob(f"{RUNS}/*/train"))}
    for identity, folder in folders.items():
        if not publish(folder, root):
            raise typer.Exit(1)
        typer.echo(f"{identity}  {folder.name}")
    typer.echo(f"The store has all {len(folders)} finished runs.")
