"""The source `imagefolder`: one folder per class."""

import re
from pathlib import Path

from semimae.data.images import SUFFIXES
from semimae.ingest.layout import FOLDERS, check_layout, near_name
from semimae.ingest.source import Source, class_order, from_files
from semimae.ingest.walk import Skipped, Walker
from semimae.options.data import DataConfig
from semimae.types import UserError

# Control characters, including line breaks, and bytes that are not UTF-8: manifests and label lists
# are text with one line per image, and file names cannot contain NUL.
UNLISTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_NOT_READ = "folder other than train/, val/, test/, unlabeled/"
_LOOSE = "image outside of train/, val/, test/, unlabeled/"


def imagefolder(root: Path, config: DataConfig) -> Source:
    """Return ``train/CLASS/`` and the optional ``val/CLASS/``, ``test/CLASS/`` and ``unlabeled/``.

    Files may lie at any depth below these; linked folders are followed. If only one of val/ and
    test/ exists, it is the test set, which is the role of val/ in ImageNet. ``Source.skipped``
    lists skipped files with the reason.
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
                    f"{root / folder / name} is not a class: train/ has no folder {name!r}; {hint}"
                    "Add it there, or rename or remove this one."
                )
            label = class_names.index(name)
            found = walker.images(f"{folder}/{name}")
            rows += [(path, label, splits[folder]) for path in found]
        if len(rows) == count:
            raise UserError(
                f"{root / folder} contains no images{_instead(walker, folder)}; put files "
                f"({' '.join(sorted(SUFFIXES))}) into {folder}/CLASS/ or remove it."
            )
    if (root / "unlabeled").exists():
        rows += [(path, -1, "unlabeled") for path in walker.images("unlabeled")]
    for path, _, _ in rows:
        if UNLISTABLE.search(path):
            raise UserError(
                f"{path!r} has control characters or invalid UTF-8 in its name; rename it."
            )
    return from_files("imagefolder", root, rows, class_names, beside + walker.skipped)


def _class_folders(walker: Walker, folder: str) -> list[str]:
    files, folders, linked = walker.entries(folder)
    if files:
        raise UserError(
            f"{len(files)} images are not in a class folder, first {walker.root}/{files[0]}; "
            f"move each into the {folder}/CLASS/ that it belongs to."
        )
    return sorted(path.rpartition("/")[2] for path in folders + linked)


def _instead(walker: Walker, folder: str) -> str:
    """Return an example of what was skipped in a folder, or nothing."""
    there = [skip for skip in walker.skipped if skip.path.startswith(f"{folder}/")]
    return f" ({there[0].path}: {there[0].reason})" if there else ""
