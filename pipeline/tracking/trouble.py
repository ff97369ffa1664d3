"""Explain a failure of MLflow: it is unavailable for now, or there is something to fix."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.tracking.address import without_password
from semimae.types import UserError

SYNC = "`python -m pipeline sync-mlflow`"
AWAY = f"nothing is lost: {SYNC} logs it later"
_LONGEST = 200  # characters of a reason

# Errors that waiting does not fix: a pattern and the remedy. The first match counts.
_REMEDIES = (
    (
        r"SSLError|CERTIFICATE_VERIFY|certificate",
        "check whether the address should begin with http or https, and set "
        "MLFLOW_TRACKING_SERVER_CERT_PATH if you use your own certificate",
    ),
    (
        r"[Ii]nvalid Host header|DNS rebinding",
        "start the server with --allowed-hosts and the host name in MLFLOW_TRACKING_URI",
    ),
    (
        r"error code 40[13]\b|UNAUTHENTICATED|PERMISSION_DENIED|CUSTOMER_UNAUTHORIZED",
        "set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to "
        "credentials that this server accepts",
    ),
    (
        r"error code (3\d\d|400|404|405)\b|not in a valid JSON|ENDPOINT_NOT_FOUND",
        "the answer did not come from an MLflow server: check the address in MLFLOW_TRACKING_URI",
    ),
    (
        r"not a database|disk image is malformed",
        "move that file away, and a new one will be created from the stage files",
    ),
    (
        r"No module named '(psycopg|MySQLdb|pymysql|pyodbc)",
        "install the database's driver, "
        "`pip install -e '.[server]'`, and write postgresql+psycopg2://... as the address",
    ),
    (r"No module named|cannot import name", "repair the environment with `make setup`"),
    (
        r"authentication failed|database \"[^\"]*\" does not exist|role \"[^\"]*\" does not exist",
        "check user, password and database in MLFLOW_TRACKING_URI",
    ),
    (
        r"unsupported URI|Invalid url|Could not parse|Can't load plugin|not a valid",
        "set MLFLOW_TRACKING_URI to http://HOST:PORT or sqlite:///FILE, or unset it",
    ),
    (r"for MLFLOW_\w+", "correct that variable"),
    (
        r"readonly database|unable to open database|Permission denied|Read-only file system"
        r"|Not a directory|Is a directory|File exists|Operation not permitted",
        "make that path writable, or remove what is in the way",
    ),
    (r"Changing param values", "delete that run in MLflow; it was logged by other code"),
    (
        r"[Ee]xperiment name|absolute path|Invalid model name|Invalid value for \w*name",
        "set tracking.experiment to a name that this store accepts",
    ),
    (
        r"'active' state|is deleted|was deleted",
        "restore it in MLflow, or set tracking.experiment to a new name",
    ),
)
# Errors that pass: the network, the server or another writer may behave differently later.
_HEALS = re.compile(
    r"timed? ?out|no answer in|could not be acquired|refused|reset by peer|aborted"
    r"|unreachable|resolve|name resolution|Max retries exceeded|closed the connection"
    r"|terminating connection|starting up|too many (connections|clients)|is locked"
    r"|is full|No space left|quota|error code (429|5\d\d)|TEMPORARILY_UNAVAILABLE",
    re.IGNORECASE,
)


def explain(error: BaseException, later: str = AWAY) -> str:
    """Return one line: what failed, and what to do about it, or ``later`` if it will pass."""
    texts = [str(each) or type(each).__name__ for each in _chain(error)]
    said = without_password(texts[0].splitlines()[0])
    if found := re.match(r"API request to (https?://[^/\s]+)\S* failed with .*exception", said):
        said = f"{found[1]}: {texts[-1].splitlines()[0]}"  # only the root cause
    reason = said[:_LONGEST].rstrip(" .")
    if isinstance(error, UserError):  # its message says what to do
        return f"{without_password(str(error)).rstrip('.')}; then {SYNC} logs what is missing"
    whole = "\n".join(texts)
    remedy = _remedy(whole)
    if remedy is None:
        if _HEALS.search(whole) or _is_of_the_server(error):
            return f"{reason}; {later}"
        remedy = "fix the cause"
    return (
        f"{reason}; waiting will not help: {remedy}; then {SYNC} logs what is missing, "
        "from the stage files"
    )


def _remedy(whole: str) -> str | None:
    if found := re.search(r"schema \(found version (\w+)|revision identified by '(\w+)'", whole):
        return _for_schema(found[1] or found[2])
    return next((remedy for words, remedy in _REMEDIES if re.search(words, whole)), None)


def _for_schema(version: str) -> str:
    """Return the remedy for a database of another version. MLflow calls newer ones old, too."""
    import mlflow

    known = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if any(known.glob(f"{version}_*.py")):
        return (
            "it was written by an older MLflow: make a copy of it, then run `mlflow db upgrade` "
            "with its address"
        )
    return (
        f"it was written by a newer MLflow than this one ({mlflow.__version__}): install that "
        "version here, or set MLFLOW_TRACKING_URI to another database"
    )


def _is_of_the_server(error: BaseException) -> bool:
    """Return whether a server answered that it is temporarily unable to serve the request."""
    status = getattr(error, "get_http_status_code", lambda: 0)()
    return type(error).__name__ == "RestException" and (status == 429 or status >= 500)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
