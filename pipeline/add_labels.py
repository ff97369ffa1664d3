"""``add-labels``: what was labeled goes back to the images."""

import csv
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.workspace import dvc_root
from semimae.files import write_csv
from semimae.ingest.table_header import header_hint
from semimae.options.params import Params
from semimae.types import UserError

_UNLABELED = "unlabeled/"


def add_labels(
    file: Annotated[Path, typer.Argument(help="A csv file with columns path and label.")],
) -> None:
    """Give images the labels that a csv file states, as `suggest-labels` writes it.

    Rows without a label are left alone. With dataset csv the labels are written to the manifest,
    with dataset imagefolder the files move from unlabeled/ to train/LABEL/. All rows or none.

    Example: python -m pipeline add-labels todo.csv
    """
    from semimae.data.store import resolve_root

    root = dvc_root()
    params = Params.read(root / "params.yaml")
    images = resolve_root(params.data.root, root)
    labels = _read(file)
    if params.dataset == "imagefolder":
        _move(images, labels, file)
    elif params.dataset == "csv":
        _rewrite(images / params.data.manifest, labels, file)
    else:
        raise UserError(
            f"dataset={params.dataset} has its labels; add-labels is for imagefolder and csv."
        )
    typer.echo(f"Labeled: {len(labels)}. Next: `dvc repro -f prepare`, then `make repro`.")


def _read(file: Path) -> dict[str, str]:
    """Return the label of each path that has one."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            _check_columns(file, reader.fieldnames or ())
            rows = [(row["path"] or "", (row["label"] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); give a csv file in UTF-8.") from None
    labels: dict[str, str] = {}
    for path, label in rows:
        if label and labels.setdefault(path, label) != label:
            raise UserError(f"{file}: {path} has labels {labels[path]!r} and {label!r}; keep one.")
    if not labels:
        raise UserError(f"{file}: no row has a label; fill in the column label.")
    return labels


def _check_columns(file: Path, columns: Sequence[str]) -> None:
    if missing := {"path", "label"} - set(columns):
        hint = header_hint(columns, ("path", "label"))
        raise UserError(f"{file} has no column {' and no '.join(sorted(missing))}{hint}.")


def _check_classes(labels: dict[str, str], classes: set[str], file: Path, remedy: str) -> None:
    from semimae.ingest.layout import near_name

    for path, label in labels.items():
        if label not in classes:
            near = near_name(label, classes)
            hint = f"did you mean {near!r}?" if near else remedy
            raise UserError(f"{file}: {path} has the label {label!r}, which is no class; {hint}")


def _move(images: Path, labels: dict[str, str], file: Path) -> None:
    """Move files from unlabeled/ to train/LABEL/, keeping their path below it."""
    train = images / "train"
    classes = (
        {entry.name for entry in train.iterdir() if entry.is_dir()} if train.is_dir() else set()
    )
    _check_classes(labels, classes, file, f"for a new class make its folder in {train} first.")
    moves: list[tuple[Path, Path]] = []
    for path, label in labels.items():
        name = posixpath.normpath(path)
        source = images / name
        target = train / label / name.removeprefix(_UNLABELED)
        if not name.startswith(_UNLABELED) or not source.is_file():
            raise UserError(f"{file}: {path!r} is no file in {images / _UNLABELED}.")
        if target.exists():
            raise UserError(f"{file}: {target} is there already; rename {source}.")
        moves.append((source, target))
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
            done.append((source, target))
    except OSError as error:
        for source, target in reversed(done):
            os.rename(target, source)
        raise UserError(f"{error.filename} cannot be moved ({error.strerror}); none was.") from None


def _rewrite(manifest: Path, labels: dict[str, str], file: Path) -> None:
    """Write the labels into the manifest's rows."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{manifest} cannot be read ({error}).") from None
    _check_columns(manifest, columns)
    by_path = {posixpath.normpath(row["path"]): row for row in rows}
    classes = {row["label"] for row in rows if row["label"]}
    _check_classes(labels, classes, file, f"for a new class label one image in {manifest.name}.")
    for path, label in labels.items():
        row = by_path.get(posixpath.normpath(path))
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
