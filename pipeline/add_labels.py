"""``add-labels``: attach new labels to the images."""

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
Labels = dict[str, str]  # the label of each path, relative to the image folder


def add_labels(
    file: Annotated[
        Path, typer.Argument(help="A csv file with columns path and label, or Label Studio's JSON.")
    ],
) -> None:
    """Label images from a csv file or an export of Label Studio.

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
            f"dataset={params.dataset} comes with its labels; add-labels works with imagefolder "
            "and csv."
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
    """Read a csv file with the columns path and label. Return all its columns, and its rows."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns, rows = list(reader.fieldnames or ()), []
            if missing := [name for name in _COLUMNS if name not in columns]:
                hint = header_hint(columns, _COLUMNS)
                raise UserError(f"{file} has no column {' and no column '.join(missing)}{hint}.")
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{file} line {reader.line_num} does not have the columns of the first "
                        f"line ({', '.join(columns)}); put names that contain commas in quotes."
                    )
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); {remedy}.") from None
    return columns, rows


def _name_of(path: str, images: Path) -> str:
    """Return a listed path, relative to the image folder.

    `predict` writes paths as they were given to it: absolute, or relative to its working directory.
    """
    name = posixpath.normpath(path)
    whole = os.path.abspath(path)
    if not os.path.exists(whole) or (not os.path.isabs(path) and os.path.exists(images / name)):
        return name
    real, unlabeled = os.path.realpath(whole), os.path.realpath(images / _UNLABELED)
    for place, start, prefix in (
        (whole, os.path.abspath(images), ""),
        (real, os.path.realpath(images), ""),
        (real, unlabeled, _UNLABELED),  # which may be a link to another disk
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
            raise UserError(f"{file}: {path} has the unknown label {label!r}; {hint}")


def _move(images: Path, labels: Labels, file: Path) -> None:
    """Move files from unlabeled/ to train/LABEL/ and keep their subfolders."""
    train = images / "train"
    classes = (
        {entry.name for entry in train.iterdir() if entry.is_dir()} if train.is_dir() else set()
    )
    _check_classes(labels, classes, file, f"to add a class, create its folder in {train} first.")
    moves: list[tuple[Path, Path]] = []
    for name, label in labels.items():
        source = images / name
        target = train / label / name.removeprefix(f"{_UNLABELED}/")
        if not name.startswith(f"{_UNLABELED}/") or not source.is_file():
            if (known := _labeled_as(name, train, classes)) is not None:
                raise UserError(
                    f"{file}: {name!r} is labeled as {known!r} already; remove its row, or move "
                    f"the file from {train / known} to change that."
                )
            raise UserError(f"{file}: there is no file {name!r} in {images / _UNLABELED}.")
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            raise UserError(f"{file}: {target} already exists; rename {source}.")
        moves.append((source, target))
    try:
        move_all(moves)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be moved ({error.strerror}); no file was moved."
        ) from None


def _labeled_as(name: str, train: Path, classes: set[str]) -> str | None:
    """Return the class of an image that is in train/ or was moved there, if it is."""
    top, _, rest = name.partition("/")
    if top == _UNLABELED:
        return next((c for c in sorted(classes) if (train / c / rest).is_file()), None)
    label = rest.partition("/")[0]
    return label if top == train.name and label in classes and (train / rest).is_file() else None


def _rewrite(manifest: Path, labels: Labels, file: Path) -> None:
    """Write the labels to the manifest."""
    columns, rows = _rows(manifest, "set data.manifest to the csv file that lists the images")
    by_path = {posixpath.normpath(row["path"]): row for row in rows}
    classes = {row["label"] for row in rows if row["label"]}
    _check_classes(labels, classes, file, f"to add a class, label one image in {manifest.name}.")
    for path, label in labels.items():
        row = by_path.get(path)
        if row is None:
            raise UserError(
                f"{file}: {path!r} is not in {manifest}; write paths as they appear there."
            )
        if row.get("split", "") not in ("", "train", "unlabeled"):
            raise UserError(
                f"{file}: {path!r} is in split {row['split']}, where labels cannot be changed."
            )
        row["label"] = label
        if row.get("split") == "unlabeled":
            row["split"] = "train"
    write_csv(manifest, columns, [[row[name] for name in columns] for row in rows])
