"""``suggest-labels``: which images to label next."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.stage import read_inputs
from pipeline.tables import table
from pipeline.workspace import HEADLINE, PREPARED, RUNS, dvc_root
from semimae.types import UserError

COLUMNS = ["path", "rank", "class", "confidence", "label"]


def suggest_labels(
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder; without it, the headline's.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images.")] = 100,
    out: Annotated[
        Path | None, typer.Option(help="File to write, .csv; without it, standard output.")
    ] = None,
) -> None:
    """List the unlabeled images most worth a label: those in doubt, and unlike each other.

    The columns are path, rank, the model's class and its confidence, and an empty column label to
    fill in; `add-labels` takes the file back. The choice is that of BADGE (arXiv:1906.03671).

    Example: python -m pipeline suggest-labels --count 50 --out todo.csv
    """
    from semimae.calibration import tempered
    from semimae.engine.infer import infer
    from semimae.inference.acquire import badge, candidates
    from semimae.model_file import open_model

    root = dvc_root()
    folder = root / RUNS / HEADLINE if run is None else run
    cell, _, prepared, split = read_inputs(folder, root / PREPARED, root / "params.yaml")
    rows = candidates(prepared, split)
    if not len(rows):
        raise UserError("all training images are labeled; there is none to suggest.")
    trained = open_model(folder)
    outputs = infer(trained.model, cell, prepared, rows)
    probabilities = tempered(outputs.probabilities, trained.info.temperature).numpy()
    chosen = badge(outputs.features.double().numpy(), probabilities, count, cell.seed)
    names = prepared.info.class_names
    with table(out, COLUMNS) as write:
        write(
            [
                {
                    "path": prepared.names[rows[place]],
                    "rank": rank,
                    "class": names[probabilities[place].argmax()],
                    "confidence": round(float(probabilities[place].max()), 6),
                    "label": "",
                }
                for rank, place in enumerate(chosen.tolist(), start=1)
            ]
        )
    if out is not None:
        typer.echo(f"{out} has {len(chosen)} of {len(rows)} unlabeled images.", err=True)
