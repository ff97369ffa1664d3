"""``add-labels``: what was labeled goes back to the images."""

import csv
import filecmp
import os
import posixpath
from pathlib import Path
from typing import Annotated

import typer

from pipeline.labeling.label_studio import read_export
from pipeline.moves import move_all
from pipeline.workspace import dvc_root
from semimae.files import write_csv
from semimae.ingest.table_header import header_hint
from semimae.options.params import Params
from semimae.types import UserError

_UNLABELED = "unlabeled"
_COLUMNS = ("path", "label")
Labels = dict[str, str]  # of paths below the folder of the images


def add_labels(
    file: Annotated[
        Path, typer.Argument(help="A csv file with columns path and label, or Label Studio's JSON.")
    ],
) -> None:
    """Give images their labels, from a csv file or an export of Label Studio.

    Images without a label are left alone. With dataset csv the labels are written to the manifest,
    with dataset imagefolder the files move from unlabeled/ to train/LABEL/. All rows or none.
    Paths are relative to the folder of the images, or as `predict` writes them.

    Example: python -m pipeline add-labels todo.csv
    """
    from semimae.data.store import resolve_root

    root = dvc_root()
    params = Params.read(root / "params.yaml")
    images = resolve_root(params.data.root, root)
    labels, without = _read(file, images)
    if params.dataset == "imagefolder":
        _move(images, labels, file)
    elif params.dataset == "csv":
        _rewrite(images / params.data.manifest, labels, file)
    else:
        raise UserError(
            f"dataset={params.dataset} has its labels; add-labels is for imagefolder and csv."
        )
    typer.echo(f"Labeled: {len(labels)}. Next: `dvc repro -f prepare`, then `make repro`.")
    if without:
        typer.echo(f"Still without a label in {file}: {without}.")


def _read(file: Path, images: Path) -> tuple[Labels, int]:
    """Return the label of each image that has one, and how many have none."""
    labels: Labels = {}
    if file.suffix.lower() == ".json":
        given, without = read_export(file)
    else:
        rows = _rows(file, "give a csv file in UTF-8")[1]
        given = [(row["path"], label) for row in rows if (label := row["label"].strip())]
        without = len(rows) - len(given)
    for path, label in given:
        name = _name_of(path, images)
        if labels.setdefault(name, label) != label:
            raise UserError(f"{file}: {name} has labels {labels[name]!r} and {label!r}; keep one.")
    if not labels:
        raise UserError(f"{file}: no image has a label yet; label some first.")
    return labels, without


def _rows(file: Path, remedy: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read a csv file with columns path and label: all its columns, and its rows."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns, rows = list(reader.fieldnames or ()), []
            if missing := [name for name in _COLUMNS if name not in columns]:
                hint = header_hint(columns, _COLUMNS)
                raise UserError(f"{file} has no column {' and no '.join(missing)}{hint}.")
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{file} line {reader.line_num} has other columns than its first line, "
                        f"which has {', '.join(columns)}; names with commas need quotes."
                    )
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); {remedy}.") from None
    return columns, rows


def _name_of(path: str, images: Path) -> str:
    """Return a path of the list relative to the folder of the images.

    `predict` writes paths as it was given them: whole, or relative to where it was called.
    """
    name = posixpath.normpath(path)
    whole = os.path.abspath(path)
    if not os.path.exists(whole) or (not os.path.isabs(path) and os.path.exists(images / name)):
        return name
    real, unlabeled = os.path.realpath(whole), os.path.realpath(images / _UNLABELED)
    for place, start, prefix in (
        (whole, os.path.abspath(images), ""),
        (real, os.path.realpath(images), ""),
        (real, unlabeled, _UNLABELED),  # a link to another disk, perhaps
    ):
        if Path(place).is_relative_to(start):
            return posixpath.join(prefix, os.path.relpath(place, start))
    return name


def _check_classes(labels: Labels, classes: set[str], file: Path, remedy: str) -> None:
    from semimae.ingest.layout import near_name

    for path, label in labels.items():
        if label not in classes:
            near = near_name(label, classes)
            hint = f"did you mean {near!r}?" if near else remedy
            raise UserError(f"{file}: {path} has the label {label!r}, which is no class; {hint}")


def _move(images: Path, labels: Labels, file: Path) -> None:
    """Move files from unlabeled/ to train/LABEL/, keeping their path below it."""
    train = images / "train"
    classes = (
        {entry.name for entry in train.iterdir() if entry.is_dir()} if train.is_dir() else set()
    )
    _check_classes(labels, classes, file, f"for a new class make its folder in {train} first.")
    moves: list[tuple[Path, Path]] = []
    for name, label in labels.items():
        source = images / name
        target = train / label / name.removeprefix(f"{_UNLABELED}/")
        if not name.startswith(f"{_UNLABELED}/") or not source.is_file():
            raise UserError(f"{file}: {name!r} is no file in {images / _UNLABELED}.")
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            raise UserError(f"{file}: {target} is there already; rename {source}.")
        moves.append((source, target))
    try:
        move_all(moves)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be moved ({error.strerror}); none was.") from None


def _rewrite(manifest: Path, labels: Labels, file: Path) -> None:
    """Write the labels into the manifest's rows."""
    columns, rows = _rows(manifest, "set data.manifest to the csv file that lists the images")
    by_path = {posixpath.normpath(row["path"]): row for row in rows}
    classes = {row["label"] for row in rows if row["label"]}
    _check_classes(labels, classes, file, f"for a new class label one image in {manifest.name}.")
    for path, label in labels.items():
        row = by_path.get(path)
        if row is None:
            raise UserError(
                f"{file}: {path!r} is not in {manifest}; give paths as they stand there."
            )
        if row.get("split", "") not in ("", "train", "unlabeled"):
            raise UserError(f"{file}: {path!r} is of split {row['split']}, which keeps its label.")
        row["label"] = label
        if row.get("split") == "unlabeled":
            row["split"] = "train"
    write_csv(manifest, columns, [[row[name] for name in columns] for row in rows])
