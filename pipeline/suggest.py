"""``suggest-labels``: which images to label next."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.labeling.suggestion import Suggestion
from pipeline.stage import read_inputs
from pipeline.tables import table
from pipeline.workspace import HEADLINE, PREPARED, RUNS, dvc_root
from semimae.files import write_text
from semimae.types import UserError

if TYPE_CHECKING:
    from semimae.data.store import Prepared, Rows

COLUMNS = ["path", "rank", "class", "confidence", "label"]


def suggest_labels(
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder; without it, the headline's.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many images.")] = 100,
    out: Annotated[
        Path | None, typer.Option(help="File to write; without it, csv on standard output.")
    ] = None,
    form: Annotated[
        Literal["csv", "label-studio"],
        typer.Option("--format", help="A table, or tasks for Label Studio."),
    ] = "csv",
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page on which to label these images in a browser."),
    ] = None,
) -> None:
    """Suggest which images to label next: uncertain ones that differ from each other.

    Fill in the empty column `label`, or label the images in Label Studio or on the page, and give
    the csv file or Label Studio's JSON export to `add-labels`. The images are chosen by BADGE
    (arXiv:1906.03671).

    Example: python -m pipeline suggest-labels --count 50 --out todo.csv --html todo.html
    """
    if form == "label-studio" and (out is None or out.suffix != ".json"):
        raise UserError(f"--format {form} needs --out FILE.json.")
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
    suggestions = [
        Suggestion(
            prepared.names[rows[place]],
            rank,
            names[probabilities[place].argmax()],
            float(probabilities[place].max()),
        )
        for rank, place in enumerate(chosen.tolist(), start=1)
    ]
    if html is not None:
        _write_page(html, suggestions, prepared, rows[chosen])
    if form == "label-studio":
        assert out is not None
        _write_tasks(out, suggestions, names, f"{cell.name}, {folder.name}")
    elif out is not None or html is None:
        with table(out, COLUMNS) as write:
            write(
                [
                    dict(zip(COLUMNS, (*each[:3], round(each.confidence, 6), ""), strict=True))
                    for each in suggestions
                ]
            )
    for file in filter(None, (out, html)):
        typer.echo(f"{file} has {len(chosen)} of {len(rows)} unlabeled images.", err=True)


def _write_page(
    file: Path,
    suggestions: Sequence[Suggestion],
    prepared: "Prepared",
    rows: "Rows",
) -> None:
    from pipeline.labeling.page import LARGEST, page

    if len(suggestions) > LARGEST:
        raise UserError(
            f"--html: {len(suggestions):,} images; a page holds up to {LARGEST:,}; lower --count."
        )
    pictures = [prepared.pixels(row) for row in rows]
    write_text(file, page(suggestions, pictures, prepared.info.class_names))


def _write_tasks(
    file: Path, suggestions: Sequence[Suggestion], names: Sequence[str], model: str
) -> None:
    from pipeline.labeling.label_studio import labeling_config, tasks

    config = file.with_suffix(".xml")
    write_text(config, labeling_config(names))
    write_text(file, json.dumps(tasks(suggestions, model), indent=1) + "\n")
    typer.echo(f"{config} is the labeling interface for Label Studio.", err=True)
