"""``prune``: remove what no setting asks for any more."""

import shutil
from typing import Annotated

import typer

from pipeline.workspace import HEADLINE, RUNS, dvc_root, stale_checkpoints
from semimae.cell import cell_id
from semimae.grid import GridPoint
from semimae.params import Params


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; without it they are only listed.")
    ] = False,
) -> None:
    """List or remove what no setting asks for any more.

    That is folders of points that the grid no longer has, and checkpoints that no other cell
    continues from with this code.
    Weights stay in DVC's cache until `dvc gc`.

    Example: python -m pipeline prune --yes
    """
    root = dvc_root()
    points = Params.read(root / "params.yaml").grid().values()
    wanted = {point for asked in points for point in asked}
    folders = sorted((root / RUNS).glob("*/"))
    stale = [f for f in folders if f.name != HEADLINE and GridPoint.parse(f.name) not in wanted]
    kept = [f for f in folders if f not in stale and (f / "split.json").is_file()]
    stale += stale_checkpoints(root, {cell_id(f) for f in kept if (f / "config.json").is_file()})
    for folder in stale:
        typer.echo(folder.relative_to(root))
        if yes:
            shutil.rmtree(folder)
    done = "removed" if yes else "to remove; add --yes"
    typer.echo(f"{len(stale)} folders {done}.")
