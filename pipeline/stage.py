"""What the stages of a cell have in common. They run in the folder of the cell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from pipeline.workspace import dvc_root
from semimae.options.cell import Cell
from semimae.options.params import Params

if TYPE_CHECKING:
    from semimae.data.split import Split
    from semimae.data.store import Prepared

PreparedFolder = Annotated[
    Path, typer.Option("--prepared", help="Folder that the stage `prepare` wrote.")
]
ParamsFile = Annotated[
    Path, typer.Option("--params", help="File with the settings that are not part of the cell.")
]
PREPARED_ABOVE, PARAMS_ABOVE = Path("../../prepared"), Path("../../params.yaml")


class Inputs(NamedTuple):
    """The inputs of a stage of a cell."""

    cell: Cell
    params: Params  # for settings that are not part of the cell
    prepared: "Prepared"
    split: "Split"


def read_inputs(folder: Path, prepared_folder: Path, params_file: Path) -> Inputs:
    """Read the cell of a folder, its split and the prepared images.

    Raises:
        UserError: If one of them is missing or damaged, or does not match the others.
    """
    from semimae.data.split import Split
    from semimae.data.store import Prepared, resolve_root

    cell = Cell.read(folder / "config.json")
    params = Params.read(params_file)
    images = resolve_root(params.data.root, dvc_root())
    data = params.data
    prepared = Prepared.read(prepared_folder, images, data.workers, data.decode)
    return Inputs(cell, params, prepared, Split.read(folder / "split.json", prepared))
