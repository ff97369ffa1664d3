"""Published lists of labeled images, such as those of ImageNet 1% and 10%."""

import gzip
import hashlib
import io
import posixpath
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semimae.data.store import Prepared, Rows
from semimae.types import UserError

_EXACT = "./"  # marks a path that is known to be relative to the root
_LARGEST = 2**28  # bytes; a list of all ImageNet images is a tenth of this


class Named(NamedTuple):
    """The images that a list refers to."""

    rows: Rows  # training images, sorted
    found: int  # number of lines that match an image
    missing: tuple[str, ...]  # lines that match no image
    source: str  # "NAME sha256:HEX", with the hash of the uncompressed list


def match_names(path: Path, prepared: Prepared, train: Rows) -> Named:
    """Find the training images that a list refers to.

    Paths are compared folder by folder from the end. A line with a folder matches the image whose
    path it ends with, or else the image whose path ends with the line: ``cat/0.png`` and
    ``/disk/images/train/cat/0.png`` both match train/cat/0.png, and neither matches
    train/dog/0.png. If a line ends with several paths, the longest one counts. A line without a
    folder matches an image of that name in any folder.

    Raises:
        UserError: If the list cannot be read or matches no training image, or if a line is
            ambiguous.
    """
    content = read_list(path)
    lines = {line.strip() for line in content.decode("utf-8-sig").splitlines()} - {""}
    wanted = {line: _as_path(line, prepared.root) for line in lines}
    found = _match(set(wanted.values()), prepared.names, set(train.tolist()), str)
    # File system and list may encode accents differently: as one character, or as letter and mark.
    if left := set(wanted.values()).difference(found):
        found |= _match(left, prepared.names, set(train.tolist()), _composed)
    for line, wish in sorted(wanted.items()):
        if len(several := found.get(wish, [])) > 1:
            names = " and ".join(prepared.names[row] for row in several[:2])
            raise UserError(
                f"{path.name}: {line} is ambiguous: it may be {names}; write more of the path."
            )
    missing = tuple(sorted(line for line, wish in wanted.items() if not found.get(wish)))
    if len(missing) == len(lines):
        raise UserError(
            f"{path.name} matches no training image: it has {min(lines, default='nothing')!r}, "
            f"the dataset has {prepared.names[train[0]]!r}; use a list of this dataset's images."
        )
    rows = {row for each in found.values() for row in each}
    digest = list_hash(content)
    return Named(
        np.array(sorted(rows), dtype=np.int64),
        len(lines) - len(missing),
        missing,
        f"{path.name} sha256:{digest[:12]}",
    )


def read_list(path: Path) -> bytes:
    """Return the content of a list, which may be compressed.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(content)) as file:  # a small file may expand to a huge one
                content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"data.labeled_list={path} is larger than {_LARGEST} bytes.")
        content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(
            f"data.labeled_list={path} cannot be read ({reason}); give a text file, plain or .gz."
        ) from error
    return content


def list_hash(content: bytes) -> str:
    """Return the SHA-256 of a list."""
    return hashlib.sha256(content).hexdigest()


def _as_path(line: str, root: Path | None) -> str:
    """Return a line as a path with "/" between folders, relative to ``root`` if it is below it."""
    if "\\" in line and "/" not in line:  # written on Windows
        line = re.sub(r"^[A-Za-z]:", "", line).replace("\\", "/")
    path = posixpath.normpath(line)
    if root is not None and (below := path.removeprefix(f"{root}/")) != path:
        return _EXACT + below
    return path


def _match(
    wanted: Collection[str],
    names: list[str],
    train: set[int],
    form: Callable[[str], str],
) -> dict[str, list[int]]:
    """Return the rows that may match each wanted path, for paths that match an image.

    If the whole path is that of an image in another split, the list is empty.
    """
    by_form: defaultdict[str, list[str]] = defaultdict(list)
    by_end: defaultdict[str, list[str]] = defaultdict(list)  # by each end of a path with a folder
    for wish in wanted:
        by_form[form(wish)].append(wish)
        if wish.startswith(_EXACT):
            by_end[form(wish.removeprefix(_EXACT))].append(wish)
            continue
        for end in _ends(form(wish)):
            if "/" in end or end == form(wish):
                by_end[end].append(wish)
    whole: dict[str, tuple[int, list[int]]] = {}  # length of the longest name, and its rows
    partial: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(map(form, names)):
        for wish in by_end.get(name, ()):
            longest = whole.get(wish, (0, []))
            if len(name) > longest[0]:
                whole[wish] = (len(name), [row])
            elif len(name) == longest[0]:
                longest[1].append(row)
        if row in train:
            for end in _ends(name):
                for wish in by_form.get(end, ()) if end != name else ():
                    partial[wish].append(row)
    found = dict(partial)
    found |= {wish: [row for row in rows if row in train] for wish, (_, rows) in whole.items()}
    return found


def _ends(path: str) -> Iterator[str]:
    """Yield a path, then the path without its first folder, and so on.

    >>> list(_ends("a/b/c"))
    ['a/b/c', 'b/c', 'c']
    """
    while True:
        yield path
        _, slash, path = path.partition("/")
        if not slash:
            return


def _composed(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)
