"""``predict``: classify image files with a trained model."""

import csv
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.model_card import which_model
from pipeline.progress import progress
from pipeline.tables import Row, table
from semimae.ingest.table_header import header_hint
from semimae.types import UserError

if TYPE_CHECKING:
    from semimae.engine.infer import Outputs
    from semimae.ingest.walk import Skipped

Model = Annotated[
    Path, typer.Argument(help="A run's folder, or its model.safetensors or a copy of it.")
]


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


def predict(
    model: Model,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Images, folders, csv files.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv, .jsonl or .parquet.")
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all", help="The probability of every class, in columns p(CLASS).")
    ] = False,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="What the classifier sees of each image.")
    ] = False,
    abstain: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Leave the class empty below this probability."),
    ] = 0.0,
    root: Annotated[
        Path | None,
        typer.Option(help="What paths in csv files are relative to, if not to the file's folder."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Images per pass.")] = 64,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Page to write: the images, to look through by confidence."),
    ] = None,
) -> None:
    """Classify images: path, class and probability of each, as csv on standard output.

    Folders are searched at any depth; of a csv file its column `path` counts. Each file gets a
    line: on standard error, with the reason, if it is no image or cannot be read. Where an image
    cannot be read, the others are done, and the exit code is 1.

    Which model answers, and how good it is on its test images, stands on standard error.

    Example: python -m pipeline predict runs/headline photos/ --out predictions.csv
    """
    from pipeline.reporting.gallery import gallery
    from semimae.inference.predict import predict_files
    from semimae.model_file import open_model

    files, skipped = _files(paths, root)
    trained = open_model(model)
    typer.echo(which_model(trained, model), err=True)
    names = trained.info.dataset.class_names
    columns = ["path", "class", "probability"]
    columns += [f"p({name})" for name in names] if all_classes else []
    columns += ["embedding"] if embedding else []
    bad: list[tuple[str, str]] = []
    title = f"What {model} says of {len(files):,} images"
    with (
        progress("images", len(files)) as update,
        table(out, columns) as write,
        gallery(page, title, trained.pixels) as show,
    ):

        def on_batch(batch: list[str], outputs: "Outputs") -> None:
            rows = _rows(batch, outputs, names, abstain)
            write(rows)
            show([(row["path"], row["class"], row["probability"]) for row in rows])

        predict_files(
            trained,
            [file for file in files if _is_text(file, bad)],
            on_batch=on_batch,
            on_bad=lambda path, reason: bad.append((path, reason)),
            progress=lambda done, total: update(done, total=total),
            batch_size=batch_size,
            device=device.value,
        )
    for path, reason in [*skipped, *bad]:
        typer.echo(_visible(f"{path}: {reason}"), err=True)
    if out is not None:
        typer.echo(f"{out} has {len(files) - len(bad)} of {len(files)} images.", err=True)
    if page is not None:
        typer.echo(f"{page} shows them; open it in a browser.", err=True)
    if bad:
        raise typer.Exit(1)


def _rows(
    paths: list[str], outputs: "Outputs", names: tuple[str, ...], abstain: float
) -> list[Row]:
    """Return a row per image with all columns that may be asked for."""
    rows = []
    columns = (paths, outputs.labels.tolist(), outputs.probabilities.tolist(), outputs.features)
    for path, label, probabilities, feature in zip(*columns, strict=True):
        rounded = [round(value, 6) for value in probabilities]
        name = names[label] if probabilities[label] >= abstain else ""
        row: Row = {"path": path, "class": name, "probability": rounded[label]}
        row |= {f"p({name})": value for name, value in zip(names, rounded, strict=True)}
        row["embedding"] = [float(f"{value:.6g}") for value in feature.tolist()]
        rows.append(row)
    return rows


def _files(paths: list[Path], root: Path | None) -> "tuple[list[str], list[Skipped]]":
    """Return the images that the arguments mean, each once, in their order, and what is none.

    Raises:
        UserError: If an argument leads to none.
    """
    from semimae.ingest.walk import Skipped, Walker

    found: list[str] = []
    skipped: list[Skipped] = []
    for path in paths:
        if path.is_dir():
            walker = Walker(str(path))
            inside = [os.path.join(path, name) for name in walker.images()]
            passed = [Skipped(os.path.join(path, name), why) for name, why in walker.skipped]
            if not inside:
                why = f": {passed[0].path} ({passed[0].reason})" if passed else ""
                raise UserError(f"{path} holds no image{why}.")
            skipped += passed
        elif not path.exists():
            raise UserError(f"{path} is not there; give images, folders or csv files.")
        elif path.suffix.lower() == ".csv":
            inside = _listed(path, path.parent if root is None else root)
        else:
            inside = [str(path)]
        found += inside
    return list(dict.fromkeys(found)), skipped


def _listed(path: Path, root: Path) -> list[str]:
    """Return the files in column ``path`` of a csv file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "path" not in (reader.fieldnames or ()):
                shown = ", ".join(reader.fieldnames or ()) or "none"
                hint = header_hint(reader.fieldnames or (), ("path",))
                raise UserError(f"{path} has columns {shown}; one must be called path{hint}.")
            listed = [os.path.join(root, row["path"]) for row in reader if row["path"]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); give a csv file in UTF-8.") from None
    if not listed:
        raise UserError(f"{path} lists no image.")
    return listed


def _visible(text: str) -> str:
    """Return text that stays on its line and commands no terminal, whatever a file's name is."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _is_text(path: str, bad: list[tuple[str, str]]) -> bool:
    """Tell whether a path can be written to a table; if not, add it to the bad ones."""
    try:
        path.encode()
    except UnicodeEncodeError:
        bad.append((path.encode(errors="backslashreplace").decode(), "no UTF-8 in its name"))
        return False
    return True
