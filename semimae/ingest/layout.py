"""The layout of a folder of images: where each split lies, and what to say where it does not."""

import difflib
import os
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from semimae.data.images import SUFFIXES
from semimae.ingest.walk import file_reason, listed
from semimae.types import UserError

FOLDERS = ("train", "val", "test", "unlabeled")
_WANTED = "wanted: train/CLASS/IMAGES and, if there are any, val/CLASS/, test/CLASS/, unlabeled/"
# Other words for the folders, without what is not a letter or a digit.
_OTHER_WORDS = {
    "training": "train",
    "trainset": "train",
    "labeled": "train",
    "labelled": "train",
    "validation": "val",
    "valid": "val",
    "validate": "val",
    "valset": "val",
    "dev": "val",
    "tests": "test",
    "testing": "test",
    "testset": "test",
    "unlabelled": "unlabeled",
    "unlabel": "unlabeled",
    "unlabels": "unlabeled",
    "nolabel": "unlabeled",
    "nolabels": "unlabeled",
    "notlabeled": "unlabeled",
    "unsup": "unlabeled",
}
_SIMILAR = 0.75  # of difflib's ratio; "unlabeld" has 0.94, "tset" 0.75
_SHOWN = 8  # class folders that a command names


def check_root(root: Path) -> None:
    """Refuse a data folder that is not there.

    Raises:
        UserError: If so.
    """
    if not os.path.isdir(root):  # Path.is_dir raises where a name is too long
        raise UserError(
            f"there is no folder {root}; set data.root or SEMIMAE_DATA to where the images are, "
            "or mount the disk that holds them."
        )


def check_layout(root: Path) -> list[str]:
    """Check the names of what lies directly in the data folder.

    Returns:
        The folders that are none of ``FOLDERS``; they are not read.

    Raises:
        UserError: If one of them was probably meant to be, or if there is no train/.
    """
    check_root(root)
    entries = [entry for entry in listed(str(root)) if not entry.name.startswith(".")]
    there = {entry.name for entry in entries if os.path.isdir(entry.path)}
    for name in sorted(there.difference(FOLDERS)):
        if meant := _meant(name, there):
            raise UserError(
                f"{root / name} is not read: did you mean {meant}/? Rename it, or move it out of "
                f"{root}; {_WANTED}."
            )
    if "train" not in there:
        raise UserError(_without_train(root, sorted(there), [entry.name for entry in entries]))
    return sorted(there.difference(FOLDERS))


def near_name(name: str, allowed: Iterable[str]) -> str | None:
    """Return the nearest name, first of all one that is the same but for case or Unicode form."""
    by_form = {plain_form(other): other for other in allowed}
    near = difflib.get_close_matches(plain_form(name), by_form, n=1)
    return by_form[near[0]] if near else None


def plain_form(name: str) -> str:
    r"""Return what names have in common that differ in case, Unicode form or spaces alone.

    >>> plain_form("Cafe\u0301 ") == plain_form("caf\u00e9")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _meant(name: str, there: set[str]) -> str | None:
    """Return which of ``FOLDERS`` a name was probably meant to be.

    Where that folder is there too, only another spelling of it counts.
    """
    word = "".join(filter(str.isalnum, plain_form(name)))
    if other := word if word in FOLDERS else _OTHER_WORDS.get(word):
        return other
    absent = [folder for folder in FOLDERS if folder not in there]
    if word.startswith("label"):  # which is the contrary of what it resembles
        return None
    near = difflib.get_close_matches(word, absent, n=1, cutoff=_SIMILAR)
    begun = [folder for folder in absent if word.startswith(folder)]
    return next(iter(near or begun), None)


def _without_train(root: Path, folders: list[str], names: list[str]) -> str:
    """Say how to come to a layout with train/, by what is there instead."""
    for name in folders:
        if (root / name / "train").is_dir():
            return f"{root} has no train/, but {name}/ has: set data.root to {root / name}."
    # Classes directly below the root, or below a root that is train/ itself.
    classes = [name for name in folders if name not in FOLDERS and _holds_images(root / name)]
    if classes and root.name == "train":
        return f"{root} holds the classes itself: set data.root to {root.parent}."
    if classes:
        few = len(classes) <= _SHOWN
        command = f"mkdir train && mv -- {shlex.join(classes)} train/"
        if not few:
            command = "mkdir ../train && mv -- * ../train/ && mv ../train ."
        shown = ", ".join(f"{name}/" for name in (classes if few else classes[:3]))
        rest = "" if few else f" and {len(classes) - 3} more"
        return (
            f"{root} has no train/: {shown}{rest} lie directly in it; {_WANTED}. "
            f"Do: cd {shlex.quote(str(root))} && {command}"
        )
    loose = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
    if loose:
        return (
            f"{root} has no train/: {loose} images lie directly in it; {_WANTED}. Or list them in "
            "a table, dataset: csv."
        )
    inside = ", ".join(names[:5]) or "nothing"
    return f"{root} has no train/, it holds {inside}; {_WANTED}. Set data.root to where that is."


def _holds_images(folder: Path) -> bool:
    """Tell whether one of a folder's first files is an image, here or one folder below."""
    for entry in listed(str(folder))[:100]:
        if not os.path.isdir(entry.path) and file_reason(entry.path) is None:
            return True
    return any(
        file_reason(inner.path) is None
        for entry in listed(str(folder))[:10]
        if entry.is_dir()
        for inner in listed(entry.path)[:10]
        if not os.path.isdir(inner.path)
    )
