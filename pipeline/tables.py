"""Write tables as csv, jsonl or parquet, row by row. A file is complete or does not exist."""

import contextlib
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from semimae.files import replaced_file
from semimae.types import UserError

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


def visible(text: str) -> str:
    """Escape what a file's name could use to break the line or control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextlib.contextmanager
def table(out: Path | None, columns: list[str]) -> Iterator[Write]:
    """Yield a function that writes rows. ``None`` writes csv to standard output.

    Raises:
        UserError: If the file's suffix is not a known format.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            with _csv(path, columns) as write:
                yield write
            with path.open(encoding="utf-8", newline="") as file:
                shutil.copyfileobj(file, sys.stdout)
        return
    if out.suffix not in FORMATS:
        raise UserError(f"--out {out}: the suffix must be one of {', '.join(FORMATS)}.")
    with replaced_file(out) as path, FORMATS[out.suffix](path, columns) as write:
        yield write


@contextlib.contextmanager
def _csv(path: Path, columns: list[str]) -> Iterator[Write]:
    """Write csv, with lists as JSON in one cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)

        def write(rows: list[Row]) -> None:
            for row in rows:
                values = [row[name] for name in columns]
                writer.writerow([json.dumps(v) if isinstance(v, list) else v for v in values])

        yield write


@contextlib.contextmanager
def _jsonl(path: Path, columns: list[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:

        def write(rows: list[Row]) -> None:
            for row in rows:
                file.write(json.dumps({name: row[name] for name in columns}) + "\n")

        yield write


@contextlib.contextmanager
def _parquet(path: Path, columns: list[str]) -> Iterator[Write]:
    """Write parquet, with the column types of the first rows."""
    import pyarrow
    import pyarrow.parquet

    writer: Any = None

    def write(rows: list[Row]) -> None:
        nonlocal writer
        schema = None if writer is None else writer.schema
        values = {name: [row[name] for row in rows] for name in columns}
        part = pyarrow.table(values, schema=schema)
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(path, part.schema)
        writer.write_table(part)

    try:
        yield write
        if writer is None:  # without rows, any type will do
            nothing = pyarrow.table({name: pyarrow.array([], "string") for name in columns})
            pyarrow.parquet.write_table(nothing, path)
    finally:
        if writer is not None:
            writer.close()


FORMATS: dict[str, Callable[[Path, list[str]], AbstractContextManager[Write]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
