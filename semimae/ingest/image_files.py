"""Sources whose images are files: a folder per class, or a CSV manifest."""

import csv
import io
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from semimae.data.images import SUFFIXES
from semimae.ingest.source import SPLITS, Source, class_order, from_files
from semimae.options.data import DataConfig
from semimae.types import UserError

# Control characters, line breaks among them, and bytes that are not UTF-8: manifests and label
# lists are text, a line per image, and NUL is in no file's name.
UNLISTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
LONGEST_PATH = 4096
LONGEST_LABEL = 255  # characters, as of a folder's name; also what Python takes for a number


def imagefolder(root: Path, config: DataConfig) -> Source:
    """Return ``train/CLASS/``, optional ``val/CLASS/``, ``test/CLASS/`` and ``unlabeled/``.

    Files may lie at any depth below these. If only one of val/ and test/ exists, it is the test
    set, as in ImageNet, whose val/ has that role. Hidden files, files without an image's suffix
    and linked folders below a class are ignored.
    """
    _require_folder(root / "train")
    class_names = class_order(_class_folders(root, "train"))
    both = (root / "val").exists() and (root / "test").exists()
    rows: list[tuple[str, int, str]] = []
    for folder, split in (("train", "train"), ("val", "val" if both else "test"), ("test", "test")):
        if not (root / folder).exists():
            continue
        count = len(rows)
        for name in _class_folders(root, folder):
            if name not in class_names:
                raise UserError(
                    f"{root / folder / name} is no class: train/ has no folder {name!r}; "
                    "add it there, rename or remove this one."
                )
            label = class_names.index(name)
            rows += [(path, label, split) for path in _image_files(root, f"{folder}/{name}")]
        if len(rows) == count:
            raise UserError(
                f"{root / folder} holds no image; put files ({' '.join(sorted(SUFFIXES))}) "
                f"into {folder}/CLASS/ or remove it."
            )
    if (root / "unlabeled").exists():
        rows += [(path, -1, "unlabeled") for path in _image_files(root, "unlabeled")]
    return from_files("imagefolder", root, rows, class_names)


def _require_folder(path: Path) -> None:
    if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
        raise UserError(
            f"there is no folder {path}; set data.root or SEMIMAE_DATA to where the images are."
        )


def _class_folders(root: Path, folder: str) -> list[str]:
    try:
        entries = sorted(entry for entry in (root / folder).iterdir() if entry.name[0] != ".")
    except OSError as error:
        raise _not_listed(error) from error
    loose = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    if loose:
        raise UserError(
            f"{len(loose)} images lie outside of class folders, first {loose[0]}; "
            f"move each into the {folder}/CLASS/ that it belongs to."
        )
    return [entry.name for entry in entries if entry.is_dir()]


def _image_files(root: Path, folder: str) -> Iterator[str]:
    """Yield the images below ``folder`` relative to ``root``; links to folders are not followed."""

    def refuse(error: OSError) -> None:  # os.walk would skip what it cannot list
        raise _not_listed(error) from error

    for parent, folders, files in os.walk(root / folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        relative = Path(parent).relative_to(root).as_posix()
        for name in files:
            if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES:
                path = f"{relative}/{name}"
                if UNLISTABLE.search(path):
                    raise UserError(
                        f"{path!r} has control characters or no UTF-8 in its name; rename it."
                    )
                yield path


def _not_listed(error: OSError) -> UserError:
    return UserError(f"{error.filename} cannot be listed ({error.strerror}); mend it.")


def csv_manifest(root: Path, config: DataConfig) -> Source:
    """Return the images that ``config.manifest`` lists in columns path, label and perhaps split.

    An empty split means train. An empty label means unlabeled, also with split train. Labels are
    class names. Paths are relative to the root and must stay in it.
    """
    _require_folder(root)
    manifest = root / config.manifest
    paths: dict[str, str] = {}  # path -> where it was listed
    texts: list[str] = []
    splits: list[str] = []
    for where, row in _csv_rows(manifest):
        label, split = row["label"], row.get("split") or "train"
        path = _checked_path(root, row["path"], where)
        if path in paths:
            raise UserError(f"{where}: path {path!r} was listed in {paths[path]}; remove one.")
        if UNLISTABLE.search(label) or len(label) > LONGEST_LABEL:
            raise UserError(
                f"{where}: label {label[:40]!r}; allowed: up to {LONGEST_LABEL} characters, no "
                "control characters."
            )
        if label == "-1":
            raise UserError(f"{where}: label -1; leave the label empty for an unlabeled image.")
        if split not in SPLITS:
            raise UserError(
                f"{where}: split {split[:40]!r}; allowed: {', '.join(SPLITS)}, or empty."
            )
        if not label and split in ("val", "test"):
            raise UserError(f"{where}: split {split} without a label; give it one.")
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
        raise UserError(
            f"{manifest} cannot be read ({error.strerror}); set data.manifest to a CSV file."
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
            raise UserError(
                f"{manifest.name} has columns {', '.join(columns)[:200] or 'none'}; "
                "allowed: path, label and optionally split."
            )
        for row in reader:
            where = f"{manifest.name} line {reader.line_num}"
            if len(row) != len(columns) or None in row.values():
                raise UserError(f"{where}: expected {len(columns)} fields: {', '.join(columns)}.")
            yield where, row
    except csv.Error as error:
        raise UserError(
            f"{manifest.name} line {reader.reader.line_num}: {error}; mend the row."
        ) from error


def _checked_path(root: Path, text: str, where: str) -> str:
    path = posixpath.normpath(text) if text else ""
    if not path or posixpath.isabs(path) or UNLISTABLE.search(path) or len(path) > LONGEST_PATH:
        raise UserError(f"{where}: path {text[:200]!r}; give one inside {root}, relative to it.")
    full = os.path.join(root, path)
    if not Path(os.path.realpath(full)).is_relative_to(os.path.realpath(root)):
        raise UserError(f"{where}: path {text!r} leads out of {root}; move the file into it.")
    if not os.path.isfile(full):
        raise UserError(f"{where}: {text!r} is no file in {root}; mend the path or remove the row.")
    return path
