"""The source `imagefolder`: a folder per class."""

import re
from pathlib import Path

from semimae.data.images import SUFFIXES
from semimae.ingest.layout import FOLDERS, check_layout, near_name
from semimae.ingest.source import Source, class_order, from_files
from semimae.ingest.walk import Skipped, Walker
from semimae.options.data import DataConfig
from semimae.types import UserError

# Control characters, line breaks among them, and bytes that are not UTF-8: manifests and label
# lists are text, a line per image, and NUL is in no file's name.
UNLISTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_NOT_READ = "folder that is none of train/, val/, test/, unlabeled/"
_LOOSE = "image outside of train/, val/, test/, unlabeled/"


def imagefolder(root: Path, config: DataConfig) -> Source:
    """Return ``train/CLASS/``, optional ``val/CLASS/``, ``test/CLASS/`` and ``unlabeled/``.

    Files may lie at any depth below these, linked folders are followed. If only one of val/ and
    test/ exists, it is the test set, as in ImageNet, whose val/ has that role. What is passed
    over, and why, is in ``Source.skipped``.
    """
    beside = [Skipped(f"{name}/", _NOT_READ) for name in check_layout(root)]
    walker = Walker(str(root))
    beside += [Skipped(name, _LOOSE) for name in walker.entries("")[0]]
    both = (root / "val").exists() and (root / "test").exists()
    splits = {"train": "train", "val": "val" if both else "test", "test": "test"}
    classes = {
        folder: _class_folders(walker, folder) for folder in splits if (root / folder).exists()
    }
    class_names = class_order(classes["train"])
    own = [f"{folder}/{name}" for folder, names in classes.items() for name in names]
    walker.reserve([*own, *(name for name in FOLDERS if (root / name).exists())])
    rows: list[tuple[str, int, str]] = []
    for folder, names in classes.items():
        count = len(rows)
        for name in names:
            if name not in class_names:
                near = near_name(name, class_names)
                hint = f"did you mean {near!r}? " if near else ""
                raise UserError(
                    f"{root / folder / name} is no class: train/ has no folder {name!r}; {hint}"
                    "Add it there, rename or remove this one."
                )
            label = class_names.index(name)
            found = walker.images(f"{folder}/{name}")
            rows += [(path, label, splits[folder]) for path in found]
        if len(rows) == count:
            raise UserError(
                f"{root / folder} holds no image{_instead(walker, folder)}; put files "
                f"({' '.join(sorted(SUFFIXES))}) into {folder}/CLASS/ or remove it."
            )
    if (root / "unlabeled").exists():
        rows += [(path, -1, "unlabeled") for path in walker.images("unlabeled")]
    for path, _, _ in rows:
        if UNLISTABLE.search(path):
            raise UserError(f"{path!r} has control characters or no UTF-8 in its name; rename it.")
    return from_files("imagefolder", root, rows, class_names, beside + walker.skipped)


def _class_folders(walker: Walker, folder: str) -> list[str]:
    files, folders, linked = walker.entries(folder)
    if files:
        raise UserError(
            f"{len(files)} images lie outside of class folders, first {walker.root}/{files[0]}; "
            f"move each into the {folder}/CLASS/ that it belongs to."
        )
    return sorted(path.rpartition("/")[2] for path in folders + linked)


def _instead(walker: Walker, folder: str) -> str:
    """Say what of a folder was passed over, if something was."""
    there = [skip for skip in walker.skipped if skip.path.startswith(f"{folder}/")]
    return f" ({there[0].path}: {there[0].reason})" if there else ""
