"""The layout of a folder of images, and helpful messages if it is not as expected."""

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
_WANTED = "expected: train/CLASS/IMAGES and, optionally, val/CLASS/, test/CLASS/, unlabeled/"
# Other names of the folders, with only their letters and digits.
_WORDS = {
    "train": "training trainset labeled labelled",
    "val": "validation valid validate valset dev",
    "test": "tests testing testset",
    "unlabeled": "unlabelled unlabel unlabels nolabel nolabels notlabeled unsup",
}
_OTHER_WORDS = {word: folder for folder, words in _WORDS.items() for word in words.split()}
_SIMILAR = 0.75  # of difflib's ratio; "unlabeld" has 0.94, "tset" 0.75
_SHOWN = 8  # class folders that a suggested command lists


def check_root(root: Path) -> None:
    """Check that the data folder exists.

    Raises:
        UserError: If it does not.
    """
    if not os.path.isdir(root):  # Path.is_dir raises if a name is too long
        raise UserError(
            f"there is no folder {root}; set data.root or SEMIMAE_DATA to where the images are, "
            "or mount the disk that holds them."
        )


def check_layout(root: Path) -> list[str]:
    """Check the names of the folders directly in the data folder.

    Returns:
        The folders that are not among ``FOLDERS``. They are not read.

    Raises:
        UserError: If one of them looks like a misspelling, or if there is no train/.
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
    """Return the closest name, preferably one that differs only in case or Unicode form."""
    by_form = {plain_form(other): other for other in allowed}
    near = difflib.get_close_matches(plain_form(name), by_form, n=1)
    return by_form[near[0]] if near else None


def plain_form(name: str) -> str:
    r"""Return a form that is equal for names that differ only in case, Unicode form or spaces.

    >>> plain_form("Cafe\u0301 ") == plain_form("caf\u00e9")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _meant(name: str, there: set[str]) -> str | None:
    """Return the member of ``FOLDERS`` that a name was probably meant to be.

    If that folder exists too, only another spelling of it counts.
    """
    word = "".join(filter(str.isalnum, plain_form(name)))
    if other := word if word in FOLDERS else _OTHER_WORDS.get(word):
        return other
    absent = [folder for folder in FOLDERS if folder not in there]
    if word.startswith("label"):  # it resembles "unlabeled" but means the opposite
        return None
    near = difflib.get_close_matches(word, absent, n=1, cutoff=_SIMILAR)
    begun = [folder for folder in absent if word.startswith(folder)]
    return next(iter(near or begun), None)


def _without_train(root: Path, folders: list[str], names: list[str]) -> str:
    """Explain how to create the layout from what the folder contains."""
    for name in folders:
        if (root / name / "train").is_dir():
            return f"{root} has no train/, but {name}/ does: set data.root to {root / name}."
    # Classes directly below the root, or below a root that is train/ itself.
    classes = [name for name in folders if name not in FOLDERS and _holds_images(root / name)]
    if classes and root.name == "train":
        return f"{root} contains the classes directly: set data.root to {root.parent}."
    if classes:
        few = len(classes) <= _SHOWN
        command = f"mkdir train && mv -- {shlex.join(classes)} train/"
        if not few:
            command = "mkdir ../train && mv -- * ../train/ && mv ../train ."
        shown = ", ".join(f"{name}/" for name in (classes if few else classes[:3]))
        rest = "" if few else f" and {len(classes) - 3} more"
        return (
            f"{root} has no train/: {shown}{rest} are directly in it; {_WANTED}. "
            f"Run: cd {shlex.quote(str(root))} && {command}"
        )
    loose = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
    if loose:
        return (
            f"{root} has no train/: {loose} images are directly in it; {_WANTED}. Or list them in "
            "a table and set dataset: csv."
        )
    inside = ", ".join(names[:5]) or "nothing"
    return (
        f"{root} has no train/; it contains {inside}; {_WANTED}. Set data.root to the right folder."
    )


def _holds_images(folder: Path) -> bool:
    """Return whether one of the first files in a folder or its subfolders is an image."""
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
