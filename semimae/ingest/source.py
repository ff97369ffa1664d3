"""`Source`: the images of a dataset, before they are decoded."""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semimae.data.images import open_file
from semimae.ingest.walk import Skipped

SPLITS = ("train", "unlabeled", "val", "test")
LARGEST_FILE = 2**30  # bytes; more than the largest image that is decoded takes uncompressed


@dataclass(frozen=True)
class Source:
    """All images of a dataset, not yet decoded; the lists have one entry per image."""

    name: str
    names: list[str]  # unique: POSIX path relative to the root, or an id such as "train/00012"
    labels: list[int]  # index into class_names, -1: unlabeled
    splits: list[str]  # in SPLITS; "train", "val" and "test" rows have labels
    class_names: list[str]
    open: Callable[[int], Image.Image]  # lazy if the image is a file
    read_bytes: Callable[[int], bytes]  # the content that the fingerprint covers
    root: str | None  # the folder, if the images are files
    skipped: tuple[Skipped, ...] = ()  # files and folders that are not read


def class_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names in the order of their indices, numerically if all are integers.

    >>> class_order(["10", "9", "10"]), class_order(["b", "a10", "a9"])
    (['9', '10'], ['a10', 'a9', 'b'])
    """
    unique = sorted(set(names))
    return sorted(unique, key=int) if all(name.isdecimal() for name in unique) else unique


def from_arrays(
    name: str, parts: dict[str, tuple[NDArray[np.uint8], Any]], class_names: list[str]
) -> Source:
    """Make a source from ``{split: (images [N, H, W] or [N, H, W, 3], labels [N])}``."""
    rows = [(split, i) for split, (images, _) in parts.items() for i in range(len(images))]

    def pixels(index: int) -> NDArray[np.uint8]:
        split, i = rows[index]
        return np.ascontiguousarray(parts[split][0][i])

    return Source(
        name=name,
        names=[f"{split}/{i:06d}" for split, i in rows],
        labels=[int(label) for _, labels in parts.values() for label in labels],
        splits=[split for split, _ in rows],
        class_names=class_names,
        open=lambda index: Image.fromarray(pixels(index)),
        read_bytes=lambda index: pixels(index).tobytes(),
        root=None,
    )


def from_files(
    name: str,
    root: Path,
    rows: list[tuple[str, int, str]],
    class_names: list[str],
    skipped: Iterable[Skipped] = (),
) -> Source:
    """Make a source from ``(path relative to the root, label, split)`` rows."""

    def path(index: int) -> str:
        return os.path.join(root, rows[index][0])

    return Source(
        name=name,
        names=[path for path, _, _ in rows],
        labels=[label for _, label, _ in rows],
        splits=[split for _, _, split in rows],
        class_names=class_names,
        open=lambda index: open_file(path(index)),
        read_bytes=lambda index: _read_image(path(index)),
        root=str(root),
        skipped=tuple(skipped),
    )


def _read_image(path: str) -> bytes:
    """Return the content of a regular file of a reasonable size.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a regular file (a pipe would never end), or too large for memory.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE} bytes")
    return Path(path).read_bytes()
