"""Where the files of an experiment are, also after its project has been moved."""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.request import url2pathname

from pipeline.tracking.address import ARTIFACTS, Address
from semimae.types import UserError

KIND = "mlflow.experimentKind"  # tag of every experiment that this project makes
# Where MLflow's database names files by their whole path. It has no function that changes it.
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
_SECONDS = 20.0  # as long as MLflow waits for another writer


def follow_move(database: Path, experiment: str) -> Path | None:
    """Let a SQLite store that has come here from elsewhere name its files here.

    MLflow notes whole paths when an experiment is made. In a project that was moved or copied they
    lead to the old folder, to which the next model would be written.

    Args:
        database: The store, which exists.
        experiment: The name of the one that is used.

    Returns:
        The folder that the paths led to, if they were changed.

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
                return None  # may be somebody's choice
        else:
            return None
        now = (here / name).as_uri() if before.startswith("file:") else str(here / name)
        with connection:
            for table, column in _PATHS:
                _replace(connection, table, column, before, now)
    return Path(local_path(before) or before).parent


def check_files(location: str, address: Address, experiment: str) -> None:
    """See that files can be written to where an experiment keeps them.

    Raises:
        UserError: If they cannot; it says what to do.
    """
    path = local_path(location)
    other = "or set tracking.experiment to a new name"
    if location.startswith("mlflow-artifacts:") and not address.is_server:
        raise UserError(
            f"experiment {experiment!r} was made through a server, which alone can reach its "
            f"files; set MLFLOW_TRACKING_URI to its http address, {other}."
        )
    if path is None or path.exists() or location == address.artifacts:
        return
    if address.is_server:
        raise UserError(
            f"experiment {experiment!r} keeps its files in {path}, a folder of the server's "
            f"machine; start the server with --artifacts-destination and without "
            f"--default-artifact-root, {other}."
        )
    if address.database is None or not path.is_relative_to(address.database.parent.resolve()):
        raise UserError(
            f"experiment {experiment!r} keeps its files in {path}, which is not there; mount or "
            f"make that folder, {other}."
        )


def local_path(location: str) -> Path | None:
    """Return the path that a location means, if it is one of this machine."""
    if location.startswith("file:"):
        return Path(url2pathname(location.removeprefix("file:").removeprefix("//")))
    return Path(location) if os.path.isabs(location) else None


def _location(connection: sqlite3.Connection, experiment: str) -> tuple[str, bool]:
    """Return where an experiment keeps its files ("": unknown), and whether we have made it."""
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
    """Let the values of a column that lie below one folder lie below another one."""
    if column not in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
        return
    connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )
