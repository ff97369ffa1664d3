"""``prune``: remove what no setting asks for any more."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from pipeline.workspace import HEADLINE, RUNS, dvc_root, stale_checkpoints
from semimae.cell import Cell, cell_id
from semimae.params import Params
from semimae.types import UserError


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; without it they are only listed.")
    ] = False,
) -> None:
    """List or remove what no setting asks for any more.

    That is folders of cells that are neither in the grid nor the headline, and checkpoints that
    no other cell continues from with this code.
    Weights stay in DVC's cache until `dvc gc`.

    Example: python -m pipeline prune --yes
    """
    root = dvc_root()
    wanted = {cell.model_dump_json() for cell in Params.read(root / "params.yaml").grid()}
    folders = sorted((root / RUNS).glob("*/"))
    stale = [f for f in folders if f.name != HEADLINE and not _is_wanted(f, wanted)]
    kept = [f for f in folders if f not in stale and (f / "split.json").is_file()]
    stale += stale_checkpoints(root, {cell_id(f) for f in kept if (f / "config.json").is_file()})
    for folder in stale:
        typer.echo(folder.relative_to(root))
        if yes:
            shutil.rmtree(folder)
    done = "removed" if yes else "to remove; add --yes"
    typer.echo(f"{len(stale)} folders {done}.")


def _is_wanted(folder: Path, wanted: set[str]) -> bool:
    try:
        return Cell.read(folder / "config.json").as_asked.model_dump_json() in wanted
    except UserError:
        return False
