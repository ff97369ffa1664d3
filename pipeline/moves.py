"""Move files, all of them or none, even from one disk to another."""

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from semimae.files import file_hash, replaced_file
from semimae.types import UserError


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move each file to its target. After an error or Ctrl-C, all files are back in place.

    If a target exists already, it must have the content of its source: an earlier move was killed
    before it could remove the source.

    Raises:
        OSError: If a file cannot be moved. No file has moved then.
        UserError: If files could not be moved back.
    """
    done: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        for source, target in moves:
            made += _make_folders(target.parent)
            _move(source, target)
            done.append((source, target))
    except BaseException:
        _move_back(done, made)
        raise


def _move_back(done: Sequence[tuple[Path, Path]], made: Sequence[Path]) -> None:
    stuck = []
    for source, target in reversed(done):
        try:
            _move(target, source)
        except OSError:
            stuck.append(f"{target} to {source}")
    for folder in reversed(made):
        with suppress(OSError):  # someone else has put a file there
            folder.rmdir()
    if stuck:
        raise UserError(
            f"{len(stuck)} files could not be moved back; move them by hand: {', '.join(stuck)}."
        )


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents. Return those that were missing, topmost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_to_another_disk(source, target)


def _move_to_another_disk(source: Path, target: Path) -> None:
    """Copy a file, verify the copy, and only then remove the original."""
    with replaced_file(target) as copy:
        shutil.copyfile(source, copy)
        with suppress(OSError):  # file systems of cameras have no owners or modes
            shutil.copystat(source, copy)
        if file_hash(copy) != file_hash(source):
            raise OSError(errno.EIO, "the copy differs", str(source))
    try:
        source.unlink()
    except BaseException:
        target.unlink()
        raise
