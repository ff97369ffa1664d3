"""The address of the store: one per project, in any folder that a stage runs in."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from semimae.types import UserError

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
ARTIFACTS = "mlartifacts"
PAGES = "http://127.0.0.1:5000"  # where `make ui` serves by default
_SQL = ("postgresql", "mysql", "mssql", "oracle")


class Address(NamedTuple):
    """The meaning of MLFLOW_TRACKING_URI, with absolute paths."""

    uri: str
    registry: str  # the store of registered models; usually the same
    database: Path | None  # the file of a SQLite store
    artifacts: str | None  # where a new experiment keeps its files; None: the server decides

    @property
    def is_server(self) -> bool:
        """Whether the store is an MLflow server."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def shown(self) -> str:
        """The address without its password."""
        return without_password(self.uri)

    @property
    def pages(self) -> str:
        """The address of MLflow's web UI: the server's own, or that of `make ui`."""
        return self.shown.rstrip("/") if self.is_server else PAGES


def local_pages(root: Path) -> str:
    """Return the address of MLflow's pages on this machine, as `ui` was started last."""
    record = ui_record(root)
    return record.read_text(encoding="utf-8") if record.is_file() else PAGES


def ui_record(root: Path) -> Path:
    """Return the file that remembers where `ui` was started last."""
    return root / ".semimae" / "ui"


def address_of(root: Path) -> Address:
    """Return the store's address: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the root.

    Relative paths start at the root, not at the current folder.

    Raises:
        UserError: If the variable does not hold the address of a store.
    """
    root = Path(os.path.abspath(root))
    uri = _resolved(TRACKING, root) or f"sqlite:///{root / 'mlflow.db'}"
    scheme, _, rest = uri.partition(":///")
    database = Path(rest.partition("?")[0]) if scheme.startswith("sqlite") else None
    artifacts = None
    if database is not None or uri.startswith(_SQL):
        folder = root if database is None else database.parent
        artifacts = (folder / ARTIFACTS).resolve().as_uri()
    return Address(uri, _resolved(REGISTRY, root) or uri, database, artifacts)


def without_password(text: str) -> str:
    """Return a text with user names and passwords removed from its addresses."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _resolved(variable: str, root: Path) -> str:
    """Return an address with an absolute path, or "" if the variable is empty or not set."""
    text = os.environ.get(variable, "").strip()
    scheme, colon, rest = text.partition(":")
    if not text:
        return ""
    if scheme.startswith("sqlite"):
        path, mark, query = rest.removeprefix("///").partition("?")
        if not rest.startswith("///") or path in ("", ":memory:"):
            raise UserError(
                f"{variable}={text} is not the path of a database file; write sqlite:///mlflow.db "
                "(relative to the project) or sqlite:////PATH/mlflow.db."
            )
        return f"{scheme}:///{os.path.normpath(root / path)}{mark}{query}"
    if scheme in ("http", "https"):
        if not _names_a_host(text):
            raise UserError(
                f"{variable}={without_password(text)} is not a valid address; write "
                "http://HOST:PORT."
            )
        return text
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", text):
        raise UserError(f"{variable}={text} has no scheme; write http://{text}.")
    if not colon or scheme == "file":
        return _folder(variable, text, root)
    return text  # Databricks, SQL or a plugin: MLflow rejects what it does not support


def _names_a_host(text: str) -> bool:
    try:
        address = urlsplit(text)
        return bool(address.hostname) and address.port != 0
    except ValueError:  # not a valid port
        return False


def _folder(variable: str, text: str, root: Path) -> str:
    """Return the address of a file store, which MLflow only supports if it is told to."""
    name = url2pathname(text.removeprefix("file:").removeprefix("//")) if ":" in text else text
    path = Path(os.path.normpath(root / name))
    if path.is_file():
        raise UserError(
            f"{variable}={text} is a file; if it is a database, write sqlite:///{path}."
        )
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("1", "true"):
        kept = f"`mlflow migrate-filestore --source {path} --target sqlite:///{root}/mlflow.db`"
        bring = f"; {kept} copies its runs" if path.is_dir() else ""
        raise UserError(
            f"{variable}={text} is a folder, and MLflow no longer stores runs in folders; unset "
            f"it, or set it to a database such as sqlite:///mlflow.db{bring}."
        )
    return path.as_uri()
