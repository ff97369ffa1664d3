"""Where the store is: one place per project, whatever the folder that a stage runs in."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from semimae.types import UserError

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
ARTIFACTS = "mlartifacts"
PAGES = "http://127.0.0.1:5000"  # of `make ui`, unless it was given another port
_SQL = ("postgresql", "mysql", "mssql", "oracle")


class Address(NamedTuple):
    """What MLFLOW_TRACKING_URI means, in full."""

    uri: str
    registry: str  # of the registered models; as a rule the same
    database: Path | None  # the file, if the store is one
    artifacts: str | None  # where a new experiment keeps its files; None: its server decides

    @property
    def is_server(self) -> bool:
        """Whether MLflow is asked over the network."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def shown(self) -> str:
        """The address without its password."""
        return without_password(self.uri)

    @property
    def pages(self) -> str:
        """The address of MLflow's pages: the server's own, or those of `make ui`."""
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

    Relative paths are relative to the root, not to the folder of whoever asks.

    Raises:
        UserError: If the variable holds what can be no store.
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
    """Return a text without the user and the password of addresses in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _resolved(variable: str, root: Path) -> str:
    """Return an address with its path in full; "" if the variable says nothing."""
    text = os.environ.get(variable, "").strip()
    scheme, colon, rest = text.partition(":")
    if not text:
        return ""
    if scheme.startswith("sqlite"):
        path, mark, query = rest.removeprefix("///").partition("?")
        if not rest.startswith("///") or path in ("", ":memory:"):
            raise UserError(
                f"{variable}={text} names no file that would last; write sqlite:///mlflow.db, "
                "which is relative to the project, or sqlite:////PATH/mlflow.db."
            )
        return f"{scheme}:///{os.path.normpath(root / path)}{mark}{query}"
    if scheme in ("http", "https"):
        if not _names_a_host(text):
            raise UserError(
                f"{variable}={without_password(text)} is no address; write http://HOST:PORT."
            )
        return text
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", text):
        raise UserError(f"{variable}={text} has no scheme; write http://{text}.")
    if not colon or scheme == "file":
        return _folder(variable, text, root)
    return text  # Databricks, SQL, what plugins know: MLflow says if it does not


def _names_a_host(text: str) -> bool:
    try:
        address = urlsplit(text)
        return bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is none
        return False


def _folder(variable: str, text: str, root: Path) -> str:
    """Return the address of a file store, which MLflow gives up unless it is told otherwise."""
    name = url2pathname(text.removeprefix("file:").removeprefix("//")) if ":" in text else text
    path = Path(os.path.normpath(root / name))
    if path.is_file():
        raise UserError(f"{variable}={text} is a file; if a database, write sqlite:///{path}.")
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("1", "true"):
        kept = f"`mlflow migrate-filestore --source {path} --target sqlite:///{root}/mlflow.db`"
        bring = f"; {kept} brings its runs along" if path.is_dir() else ""
        raise UserError(
            f"{variable}={text} is a folder, in which MLflow keeps no runs any more; unset it, or "
            f"name a database, such as sqlite:///mlflow.db{bring}."
        )
    return path.as_uri()
