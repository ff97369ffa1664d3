"""The source `csv`: a table that lists images, labels and splits."""

import csv
import io
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from semimae.ingest.image_files import UNLISTABLE
from semimae.ingest.layout import check_root, near_name, plain_form
from semimae.ingest.source import SPLITS, Source, class_order, from_files
from semimae.ingest.table_header import header_hint
from semimae.options.data import DataConfig
from semimae.types import UserError

LONGEST_PATH = 4096
LONGEST_LABEL = 255  # characters, as for a folder's name; Python parses numbers of that length


def csv_manifest(root: Path, config: DataConfig) -> Source:
    """Return the images that ``config.manifest`` lists in columns path, label and optionally split.

    An empty split means train. An empty label means unlabeled, even with split train. Labels are
    class names. Paths are relative to the root and must stay inside it.
    """
    check_root(root)
    manifest = root / config.manifest
    paths: dict[str, str] = {}  # path -> where it was listed
    texts: list[str] = []
    splits: list[str] = []
    for where, row in _csv_rows(manifest):
        label, split = row["label"], row.get("split") or "train"
        path = _checked_path(root, row["path"], where)
        if path in paths:
            raise UserError(
                f"{where}: path {path!r} is already listed in {paths[path]}; remove one."
            )
        if UNLISTABLE.search(label) or len(label) > LONGEST_LABEL:
            raise UserError(
                f"{where}: label {label[:40]!r}; allowed: up to {LONGEST_LABEL} characters, no "
                "control characters."
            )
        if label == "-1":
            raise UserError(f"{where}: label -1; leave the label of an unlabeled image empty.")
        if split not in SPLITS:
            near = near_name(split, SPLITS) if len(split) <= LONGEST_LABEL else None
            raise UserError(
                f"{where}: split {split[:40]!r}; allowed: {', '.join(SPLITS)}, or empty"
                f"{f'; did you mean {near}?' if near else '.'}"
            )
        if not label and split in ("val", "test"):
            raise UserError(f"{where}: split {split} needs a label; add one.")
        paths[path] = where
        texts.append(label)
        splits.append("unlabeled" if split == "train" and not label else split)
    class_names = class_order(text for text in texts if text)
    index = {name: i for i, name in enumerate(class_names)} | {"": -1}
    rows = [
        (path, index[text], split) for path, text, split in zip(paths, texts, splits, strict=True)
    ]
    return from_files("csv", root, rows, class_names)


def _csv_rows(manifest: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``("manifest.csv line 2", row)`` for each row."""
    try:
        content = manifest.read_bytes()
    except OSError as error:
        folders = (manifest.parent / "train").is_dir()
        other = " Or set dataset: imagefolder, since there is a train/ folder." if folders else ""
        raise UserError(
            f"{manifest} cannot be read ({error.strerror}); set data.manifest to a CSV file.{other}"
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{manifest.name} line {line} is not UTF-8; save the file as UTF-8."
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or [])
        if sorted(columns) not in (["label", "path"], ["label", "path", "split"]):
            hint = header_hint(columns, ("path", "label", "split"))
            raise UserError(
                f"{manifest.name} has columns {', '.join(columns)[:200] or 'none'}; "
                f"allowed: path, label and optionally split{hint or '.'}"
            )
        for row in reader:
            where = f"{manifest.name} line {reader.line_num}"
            if len(row) != len(columns) or None in row.values():
                raise UserError(f"{where}: expected {len(columns)} fields: {', '.join(columns)}.")
            yield where, row
    except csv.Error as error:
        raise UserError(
            f"{manifest.name} line {reader.reader.line_num}: {error}; correct that row."
        ) from error


def _checked_path(root: Path, text: str, where: str) -> str:
    path = posixpath.normpath(text) if text else ""
    if not path or posixpath.isabs(path) or UNLISTABLE.search(path) or len(path) > LONGEST_PATH:
        raise UserError(
            f"{where}: path {text[:200]!r}; give a path inside {root}, relative to that folder."
        )
    full = os.path.join(root, path)
    if not Path(os.path.realpath(full)).is_relative_to(os.path.realpath(root)):
        raise UserError(f"{where}: path {text!r} is outside of {root}; move the file into it.")
    if not os.path.isfile(full):
        hint = _near_file(full)
        raise UserError(
            f"{where}: there is no file {text!r} in {root}{hint}; correct the path or remove the "
            "row."
        )
    return path


def _near_file(full: str) -> str:
    """Return a hint at a file whose name differs only in case, Unicode form or spaces."""
    folder, name = os.path.split(full)
    try:
        names = os.listdir(folder)
    except OSError:
        return ""
    same = [other for other in names if plain_form(other) == plain_form(name)]
    return f", but there is {same[0]!r}" if same else ""
