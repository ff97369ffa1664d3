"""Files and folders that are either complete or do not exist."""

import csv
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from semimae.types import Interrupted

_log = logging.getLogger(__name__)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to. It replaces ``path`` unless there is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is fixed, so that the next run removes the file of one that was killed.
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, creating its folder."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file with a header. Lines end with a line feed on every system."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder. It replaces ``out`` unless there is an error."""
    temporary = out.with_name(f".{out.name}.tmp")  # fixed, as in `replaced_file`
    old = out.with_name(f".{out.name}.old.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _to_disk(path)
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            os.replace(out, old)
        os.replace(temporary, out)
        _to_disk(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder. A half-removed folder never exists under its name."""
    old = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.replace(path, old)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def held_lock(path: Path, should_stop: Callable[[], bool]) -> Iterator[bool]:
    """Hold an exclusive lock. Yield whether it had to wait for another process.

    Raises:
        Interrupted: If ``should_stop`` returns true while waiting.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(path), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.2 if waited else 0)
        except Timeout:
            if not waited:
                _log.info("another process is working on %s; waiting for it", path.stem)
            waited = True
            if should_stop():
                raise Interrupted("stopped while waiting for another process") from None
    try:
        yield waited
    finally:
        lock.release()


def _to_disk(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk.

    Otherwise, a rename could survive a power failure and the content could be lost.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network disks do not support it for folders
            raise
    finally:
        os.close(descriptor)
