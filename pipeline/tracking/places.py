"""Where the files of an experiment are, even after its project has moved."""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.request import url2pathname

from pipeline.tracking.address import ARTIFACTS, Address
from semimae.types import UserError

KIND = "mlflow.experimentKind"  # tag of every experiment that this project creates
# Where MLflow's database stores absolute paths. MLflow has no function to change them.
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
_SECONDS = 20.0  # as long as MLflow waits for another writer


def follow_move(database: Path, experiment: str) -> Path | None:
    """Update the file paths in a SQLite store that was moved or copied here.

    MLflow records absolute paths when an experiment is created. In a project that was moved or
    copied, they point to the old folder, and the next model would be written there.

    Args:
        database: The store, which exists.
        experiment: The name of the experiment in use.

    Returns:
        The old folder, if paths were changed.

    Raises:
        sqlite3.Error: If the database cannot be read or written.
    """
    here = database.parent.resolve()
    with contextlib.closing(sqlite3.connect(database, timeout=_SECONDS)) as connection:
        location, is_ours = _location(connection, experiment)
        path = local_path(location)
        if path is None or path.is_relative_to(here):
            return None
        if is_ours and path.name == ARTIFACTS:
            before, name = location, ARTIFACTS
        elif path.parent.name == "mlruns":  # MLflow's own choice: mlruns/ID where it was started
            before, name = location.rpartition("/")[0], "mlruns"
            if path.exists() and not (here / name / path.name).exists():
                return None  # someone may have chosen it
        else:
            return None
        now = (here / name).as_uri() if before.startswith("file:") else str(here / name)
        with connection:
            for table, column in _PATHS:
                _replace(connection, table, column, before, now)
    return Path(local_path(before) or before).parent


def check_files(location: str, address: Address, experiment: str) -> None:
    """Check that the files of an experiment can be written.

    Raises:
        UserError: If they cannot. The message says what to do.
    """
    path = local_path(location)
    other = "or set tracking.experiment to a new name"
    if location.startswith("mlflow-artifacts:") and not address.is_server:
        raise UserError(
            f"experiment {experiment!r} was created through a server, and only that server can "
            f"access its files; set MLFLOW_TRACKING_URI to its http address, {other}."
        )
    if path is None or path.exists() or location == address.artifacts:
        return
    if address.is_server:
        raise UserError(
            f"experiment {experiment!r} keeps its files in {path}, a folder on the server's "
            f"machine; start the server with --artifacts-destination and without "
            f"--default-artifact-root, {other}."
        )
    if address.database is None or not path.is_relative_to(address.database.parent.resolve()):
        raise UserError(
            f"experiment {experiment!r} keeps its files in {path}, which does not exist; mount or "
            f"create that folder, {other}."
        )


def local_path(location: str) -> Path | None:
    """Return the path of a location, if it is on this machine."""
    if location.startswith("file:"):
        return Path(url2pathname(location.removeprefix("file:").removeprefix("//")))
    return Path(location) if os.path.isabs(location) else None


def _location(connection: sqlite3.Connection, experiment: str) -> tuple[str, bool]:
    """Return where an experiment keeps its files ("": unknown), and whether we created it."""
    try:
        found = connection.execute(
            "SELECT artifact_location, experiment_id FROM experiments WHERE name = ?", (experiment,)
        ).fetchone()
        ours = "SELECT 1 FROM experiment_tags WHERE experiment_id = ? AND key = ?"
        is_ours = found and connection.execute(ours, (found[1], KIND)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # a database of another version; MLflow says what to do
            return "", False
        raise
    return (found[0] or "", bool(is_ours)) if found else ("", False)


def _replace(
    connection: sqlite3.Connection, table: str, column: str, before: str, now: str
) -> None:
    """Move the paths in a column from one folder to another."""
    if column not in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
        return
    connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )
