"""``prune``: remove what no setting asks for any more."""

import shutil
from typing import Annotated

import typer

from pipeline.source_code import fine_tuning_code, short_hash, training_code
from pipeline.workspace import HEADLINE, RUNS, dvc_root, stale_checkpoints
from semimae.options.cell import Cell, cell_id
from semimae.options.grid import GridPoint
from semimae.options.params import Params


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
    cells = {f: Cell.read(f / "config.json") for f in kept if (f / "config.json").is_file()}
    tuning = short_hash(fine_tuning_code())
    current = {
        (cell_id(f), hashed) for f, cell in cells.items() for hashed in (tuning, _code(cell))
    }
    # Of what another cell continues from, finished phases alone are shared.
    phases = [options for cell in cells.values() for options, _ in cell.options.phases()]
    phases += [teacher.options for cell in cells.values() for teacher in cell.teachers()]
    stale += stale_checkpoints(root, current, {short_hash(training_code([p])) for p in phases})
    for folder in stale:
        typer.echo(folder.relative_to(root))
        if yes:
            shutil.rmtree(folder)
    done = "removed" if yes else "to remove; add --yes"
    typer.echo(f"{len(stale)} folders {done}.")


def _code(cell: Cell) -> str:
    return short_hash(training_code([cell.options]))
