"""``prune``: remove runs and checkpoints that are no longer needed."""

import shutil
from typing import Annotated

import typer

from pipeline.noted import cell_notes
from pipeline.source_code import fine_tuning_code, short_hash, training_code
from pipeline.workspace import HEADLINE, RUNS, dvc_root, stale_checkpoints
from semimae.options.cell import Cell, cell_id
from semimae.options.grid import GridPoint
from semimae.options.params import Params


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the folders; without it, they are only listed.")
    ] = False,
) -> None:
    """List or remove runs and checkpoints that are not needed.

    These are runs that are no longer in the grid, with what workers recorded about them, and
    checkpoints that no cell can continue from with the current code. Weights stay in DVC's
    cache until you run `dvc gc`.

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
    # Only finished phases are shared between cells.
    phases = [phase.options for cell in cells.values() for phase in cell.options.phases()]
    phases += [teacher.options for cell in cells.values() for teacher in cell.teachers()]
    stale += stale_checkpoints(root, current, {short_hash(training_code([p])) for p in phases})
    names = {folder.name for folder in kept}
    stale += [path for path in cell_notes(root) if path.name not in names]
    for folder in stale:
        typer.echo(folder.relative_to(root))
        if yes:
            shutil.rmtree(folder)
    done = "removed" if yes else "to remove; add --yes to remove them"
    typer.echo(f"{len(stale)} folders {done}.")


def _code(cell: Cell) -> str:
    return short_hash(training_code([cell.options]))
