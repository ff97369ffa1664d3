"""Stage ``split``: resolve a cell's configuration and choose its labeled images."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.workspace import PREPARED, dvc_root
from semimae.options.grid import PLAIN, Budget
from semimae.options.params import Params

FromParams = "Instead of the value in params.yaml"


def _number_or_none(text: str) -> float | None:
    """Read an item of the grid as DVC writes it, where null becomes ``None``."""
    return None if text == "None" else float(text)


def split(
    folder: Annotated[Path, typer.Argument(help="Folder of the cell, e.g. runs/headline.")],
    method: Annotated[str | None, typer.Option(help=FromParams)] = None,
    mask_ratio: Annotated[float | None, typer.Option(help=FromParams)] = None,
    label_fraction: Annotated[
        float | None, typer.Option(help=f"{FromParams}; None: that value.", parser=_number_or_none)
    ] = None,
    seed: Annotated[int | None, typer.Option(help=FromParams)] = None,
    budget: Annotated[
        Budget, typer.Option(help="time: train.steps times ablation.time_factor.")
    ] = "images",
    variant: Annotated[str, typer.Option(help="Of ablation.variant.")] = PLAIN,
) -> None:
    """Write the cell's resolved config.json and its split.json.

    Example: python -m pipeline split runs/headline
    """
    from semimae.data.store import Prepared, resolve_root
    from semimae.ingest.choose import split_for

    params = Params.read().variant(variant)
    cell = params.cell(method, mask_ratio, label_fraction, seed, budget)
    root = dvc_root()
    images = resolve_root(params.data.root, root)
    cell = cell.with_weights_hash(images)
    prepared = Prepared.read(PREPARED, images)
    made = split_for(cell, prepared, root)
    folder.mkdir(parents=True, exist_ok=True)
    cell.write(folder / "config.json")
    made.write(folder / "split.json")
