"""``predict``: classify image files with a trained model."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.model_card import which_model
from pipeline.progress import progress
from pipeline.tables import Row, table, visible
from semimae.ingest.table_header import header_hint
from semimae.types import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from semimae.engine.infer import Outputs
    from semimae.ingest.walk import Skipped

Model = Annotated[Path, typer.Argument(help="The folder of a run, or a model.safetensors file.")]


def predict(
    model: Model,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Images, folders or csv files.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .csv, .jsonl or .parquet.")
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all", help="Add the probability of every class as p(CLASS) columns.")
    ] = False,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Add the features that the classifier receives.")
    ] = False,
    abstain: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Leave the class empty below this probability."),
    ] = 0.0,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of relative paths in csv files. Default: the file's own folder."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Images per pass.")] = 64,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")
    ] = "auto",
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Page to write: the images, to look through by confidence."),
    ] = None,
) -> None:
    """Classify images; print path, class and probability as csv.

    Folders are searched recursively; csv files need a `path` column. A file that is not an image or
    cannot be read is reported on standard error with the reason. If an image cannot be read, the
    others are still classified, and the exit code is 1.

    The model and its accuracy on the test images are reported on standard error.

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
    pixels: dict[str, NDArray[np.uint8]] = {}  # of the batch, for the page
    title = f"Predictions of {model} for {len(files):,} images"
    with (
        progress("images", len(files)) as update,
        table(out, columns) as write,
        gallery(page, title) as show,
    ):

        def on_pixels(batch: Sequence[str], arrays: "Sequence[NDArray[np.uint8]]") -> None:
            pixels.clear()
            pixels.update(zip(batch, arrays, strict=True))

        def on_batch(batch: list[str], outputs: "Outputs") -> None:
            rows = _rows(batch, outputs, names, abstain)
            write(rows)
            if page is not None:
                show([(r["path"], r["class"], r["probability"], pixels[r["path"]]) for r in rows])

        predict_files(
            trained,
            [file for file in files if _is_text(file, bad)],
            on_batch=on_batch,
            on_bad=lambda path, reason: bad.append((path, reason)),
            progress=lambda done, total: update(done, total=total),
            batch_size=batch_size,
            device=device,
            on_pixels=on_pixels,
        )
    for path, reason in [*skipped, *bad]:
        typer.echo(visible(f"{path}: {reason}"), err=True)
    if out is not None:
        typer.echo(f"{out} has {len(files) - len(bad)} of {len(files)} images.", err=True)
    if page is not None:
        typer.echo(f"{page} shows them; open it in a browser.", err=True)
    if bad:
        raise typer.Exit(1)


def _rows(
    paths: list[str], outputs: "Outputs", names: tuple[str, ...], abstain: float
) -> list[Row]:
    """Return one row per image, with every column that can be requested."""
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
    """Return the images that the arguments refer to, in order, and the files that are not images.

    Raises:
        UserError: If an argument refers to no image.
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
                raise UserError(f"{path} contains no images{why}.")
            skipped += passed
        elif not path.exists():
            raise UserError(f"{path} does not exist; give images, folders or csv files.")
        elif path.suffix.lower() == ".csv":
            inside = _listed(path, path.parent if root is None else root)
        else:
            inside = [str(path)]
        found += inside
    return list(dict.fromkeys(found)), skipped


def _listed(path: Path, root: Path) -> list[str]:
    """Return the files in the ``path`` column of a csv file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "path" not in (reader.fieldnames or ()):
                shown = ", ".join(reader.fieldnames or ()) or "none"
                hint = header_hint(reader.fieldnames or (), ("path",))
                raise UserError(f"{path} has columns {shown}; one must be named path{hint}.")
            listed = [os.path.join(root, row["path"]) for row in reader if row["path"]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); give a csv file in UTF-8.") from None
    if not listed:
        raise UserError(f"{path} lists no images.")
    return listed


def _is_text(path: str, bad: list[tuple[str, str]]) -> bool:
    """Return whether a path can be written to a table; if not, record it as bad."""
    try:
        path.encode()
    except UnicodeEncodeError:
        bad.append((path.encode(errors="backslashreplace").decode(), "its name is not valid UTF-8"))
        return False
    return True
