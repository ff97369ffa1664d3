"""MLflow's troubles that do not pass by themselves: said as such, in one line, with the remedy."""

import contextlib
import re
import shlex
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.artifact.utils.models import _parse_model_uri
from support import REPO, changed_params
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.tracking import publish
from pipeline.tracking.address import address_of
from pipeline.tracking.model import model_name
from pipeline.tracking.places import check_files
from pipeline.tracking.store import PIPELINE, Store, connect, runs_with_tag
from pipeline.tracking.trouble import AWAY, SYNC, explain
from semimae.options.tracking import TrackingConfig
from semimae.types import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_store_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a store; making one takes MLflow seconds."""
    root = tmp_path_factory.mktemp("template")
    (root / "params.yaml").write_text(changed_params().model_dump_json())
    (root / "dvc.yaml").touch()
    connect(root)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    copied = Path(shutil.copytree(template, tmp_path / "project"))
    with pytest.warns(UserWarning, match="this project used to be in"):
        connect(copied)
    return copied


# --- the address


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, "sqlite:///ROOT/mlflow.db"),
        ("", "sqlite:///ROOT/mlflow.db"),
        ("  ", "sqlite:///ROOT/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///ROOT/mlflow.db"),
        ("sqlite:///./sub/../store.db", "sqlite:///ROOT/store.db"),
        ("sqlite:///../shared.db", "sqlite:///PARENT/shared.db"),
        ("sqlite:///a.db?timeout=9", "sqlite:///ROOT/a.db?timeout=9"),
        ("sqlite+pysqlite:///a.db", "sqlite+pysqlite:///ROOT/a.db"),
        ("sqlite:////srv/a.db", "sqlite:////srv/a.db"),
        ("http://host:5000", "http://host:5000"),
        ("https://me:secret@host/mlflow", "https://me:secret@host/mlflow"),
        ("postgresql+psycopg2://mlflow@host/mlflow", "postgresql+psycopg2://mlflow@host/mlflow"),
        ("databricks", None),
        ("databricks://profile", "databricks://profile"),
    ],
)
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
def test_an_address_is_relative_to_the_project(
    variable: str,
    given: str | None,
    meant: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "project"
    (root / "runs" / "headline").mkdir(parents=True)
    monkeypatch.chdir(root / "runs" / "headline")  # as DVC's stages run
    if given is not None:
        monkeypatch.setenv(variable, given)
    if meant is None:  # no colon: a folder, as far as this project knows
        with pytest.raises(UserError, match="MLflow no longer stores runs in folders"):
            address_of(root)
        return
    expected = meant.replace("ROOT", str(root)).replace("PARENT", str(tmp_path))
    for asked in (root, Path("../..")):
        address = address_of(asked)
        assert expected == (address.uri if "TRACKING" in variable else address.registry)
        if address.database is not None:
            folder = address.database.parent
            assert address.artifacts == (folder / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sqlite://", "is not the path of a database file"),
        ("sqlite:///", "is not the path of a database file"),
        ("sqlite:///:memory:", "is not the path of a database file"),
        ("sqlite:mlflow.db", "is not the path of a database file"),
        ("http:/host:5000", "is not a valid address; write http://HOST:PORT"),
        ("http://", "is not a valid address"),
        ("https://host:port", "is not a valid address"),
        ("http://host:99999", "is not a valid address"),
        ("localhost:5000", r"has no scheme; write http://localhost:5000\."),
        ("mlflow.example.org:80/x", r"write http://mlflow\.example\.org:80/x\."),
        ("mlruns", "mlflow migrate-filestore --source .*/project/mlruns --target sqlite:////"),
        ("./nowhere", r"such as sqlite:///mlflow\.db\.$"),
        ("file:mlruns", "--source .*/project/mlruns "),
        ("file:./mlruns", "--source .*/project/mlruns "),
        ("file:///tmp", "--source /tmp "),
        ("mlflow.db", "is a file; if it is a database, write sqlite:////.*/project/mlflow.db"),
    ],
)
def test_what_can_be_no_store_is_refused_in_one_line(
    given: str, said: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "mlruns").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    monkeypatch.chdir(root.parent)
    with pytest.raises(UserError, match=said) as error:
        address_of(root)
    assert "\n" not in str(error.value)
    assert explain(error.value).endswith(f"; then {SYNC} logs what is missing")


def test_a_file_store_that_is_wished_for_lies_in_the_project(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "runs of mine")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert address_of(root).uri == (root / "runs of mine").as_uri()


def test_a_relative_store_is_one_file_whoever_opens_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    cell = root / "runs" / "headline"
    cell.mkdir(parents=True)

    def stores() -> set[str]:
        return {path.name for path in root.parent.rglob("ml*")}

    before = stores()
    for folder in (root, cell, root.parent):
        monkeypatch.chdir(folder)
        store = connect(root)
        run = store.client.create_run(store.experiment)
        assert run.info.artifact_uri.startswith(f"{(root / 'mlartifacts').as_uri()}/")
    assert stores() - before <= {"mlflow.lock", "mlflow.db-wal", "mlflow.db-shm"}


# --- what passes, and what does not


@contextlib.contextmanager
def answering(code: int, body: bytes = b"<html>", kind: str = "text/html") -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def line_of(root: Path) -> str:
    """What is said where the store cannot be opened."""
    with pytest.raises(Exception) as error:  # noqa: PT011  # of any kind: that is the point
        connect(root)
    line = explain(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_server_that_cannot_now_is_away(
    code: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(code) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert line_of(root).endswith(AWAY)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (200, "check the address in MLFLOW_TRACKING_URI"),
        (400, "check the address in MLFLOW_TRACKING_URI"),
        (404, "check the address in MLFLOW_TRACKING_URI"),
        (405, "check the address in MLFLOW_TRACKING_URI"),
        (401, "MLFLOW_TRACKING_USERNAME"),
        (403, "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_a_server_that_is_none_or_refuses_needs_another_setting(
    code: int, remedy: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(code) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:secret@"))
        line = line_of(root)
    assert remedy in line
    assert AWAY not in line
    assert "secret" not in line


def test_https_where_there_is_none_needs_another_address(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("http", "https"))
        assert "whether the address should begin with http or https" in line_of(root)


def test_nobody_listening_and_an_unknown_host_are_away(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("http://127.0.0.1:9", "http://nowhere.invalid:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        line = line_of(root)
        assert line.startswith(f"{address}: ")
        assert line.endswith(AWAY)
        assert len(line) < 160


def set_version(root: Path, version: str) -> None:
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (
            lambda root: set_version(root, "bda7b8c39065"),
            "an older MLflow: make a copy",
        ),
        (lambda root: set_version(root, "ffffffffffff"), "a newer MLflow than this one"),
        (lambda root: (root / "mlflow.db").write_text("x" * 9999), "move that file away"),
        (lambda root: (root / "mlflow.db").unlink() or (root / "mlflow.db").mkdir(), "writable"),
    ],
    ids=["older", "newer", "no database", "folder"],
)
def test_a_database_that_cannot_be_used_names_the_remedy(
    damage: Callable[[Path], object], remedy: str, template: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(template, tmp_path / "project"))  # not opened by this process yet
    for file in root.glob("mlflow.db-*"):
        file.unlink()
    damage(root)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MLflow: this project used to be in")
        line = line_of(root)
    assert remedy in line
    assert AWAY not in line


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("mysql://me@127.0.0.1/x", "install the database's driver"),
        ("nonsense://x", "set MLFLOW_TRACKING_URI to"),
    ],
)
def test_an_address_that_mlflow_does_not_know(
    address: str, remedy: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    line = line_of(root)
    assert remedy in line
    assert AWAY not in line


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("no answer in 5 s"),
        Timeout("mlflow.lock"),
        ConnectionResetError(104, "Connection reset by peer"),
        OSError(28, "No space left on device"),
        sqlite3.OperationalError("database is locked"),
        MlflowException("(sqlite3.OperationalError) database is locked"),
        MlflowException('connection to server at "db", port 5432 failed: Connection refused'),
        MlflowException("FATAL: the database system is starting up"),
        MlflowException("FATAL: sorry, too many clients already"),
        RestException({"error_code": "INTERNAL_ERROR", "message": "boom"}),
        RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}),
        RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slower"}),
    ],
    ids=str,
)
def test_what_passes_by_itself(error: Exception) -> None:
    assert explain(error).endswith(AWAY)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (PermissionError(13, "Permission denied", "/a/mlartifacts"), "make that path writable"),
        (OSError(30, "Read-only file system", "/a"), "make that path writable"),
        (FileExistsError(17, "File exists", "/a/mlartifacts"), "remove what is in the way"),
        (NotADirectoryError(20, "Not a directory", "/a/b"), "remove what is in the way"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "make that path"),
        (ModuleNotFoundError("No module named 'psycopg'"), "pip install -e '.[server]'"),
        (ModuleNotFoundError("No module named 'sqlalchemy'"), "make setup"),
        (MlflowException('FATAL: password authentication failed for user "x"'), "check user"),
        (MlflowException('FATAL: database "mlflow" does not exist'), "check user"),
        (ValueError("Failed to convert 'abc' for MLFLOW_HTTP_REQUEST_TIMEOUT"), "correct that"),
        (ssl.SSLCertVerificationError("certificate verify failed"), "MLFLOW_TRACKING_SERVER_CERT"),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "no"}), "_TOKEN"),
        (MlflowException("Invalid Host header - possible DNS rebinding attack"), "--allowed-hosts"),
        (MlflowException("Invalid experiment name 'x': use an absolute path"), "tracking.experime"),
        (MlflowException("The run 1 must be in the 'active' state."), "restore it in MLflow"),
        (MlflowException("Changing param values is not allowed. Param with key='a'"), "delete"),
        (RuntimeError("something that nobody has seen before"), "fix the cause"),
        (MlflowException("two lines\nof which one is said"), "fix the cause"),
    ],
    ids=str,
)
def test_what_does_not_pass_by_itself(error: Exception, remedy: str) -> None:
    line = explain(error)
    assert remedy in line
    assert AWAY not in line
    assert f"then {SYNC} logs what is missing" in line
    assert "\n" not in line


def test_the_reason_behind_the_reason_counts() -> None:
    def fail() -> None:
        try:
            raise sqlite3.OperationalError("database is locked")
        except sqlite3.OperationalError as cause:
            raise MlflowException("it did not work") from cause

    with pytest.raises(MlflowException) as error:
        fail()
    assert explain(error.value) == f"it did not work; {AWAY}"


# --- experiments


def test_a_deleted_experiment_is_restored_by_what_is_said(root: Path) -> None:
    store = connect(root)
    store.client.delete_experiment(store.experiment)
    line = line_of(root)
    assert "was deleted in MLflow" in line
    assert "tracking.experiment" in line
    found = re.search("`(MLFLOW_TRACKING_URI=.*?)`", line)
    assert found
    variable, *command = shlex.split(found[1])
    subprocess.run(
        [sys.executable, "-m", *command],
        env={"PATH": "/usr/bin:/bin", variable.split("=")[0]: variable.split("=", 1)[1]},
        check=True,
        capture_output=True,
    )
    assert connect(root).experiment == store.experiment


NAMES = [
    "semi-mae",
    "it's",
    'a "b"',
    """both ' and " """.strip(),
    "a/b:c",
    "/Users/me/digits",
    "a`b",
    "back\\slash",
    "100%_sure",
    "a@b#c?d=e&f",
    "..hidden",
    "größe 猫",
    "a;b -- c",
    "0",
    "x" * 250,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_params_take_works_in_every_filter(name: str, root: Path) -> None:
    TrackingConfig(experiment=name, log_model=True)
    params = changed_params(tracking__experiment=name)
    (root / "params.yaml").write_text(params.model_dump_json())
    first, second = connect(root), connect(root)
    assert first.experiment == second.experiment
    registered = model_name(name)
    first.client.create_registered_model(registered)
    version = first.client.create_model_version(registered, (root / "mlartifacts").as_uri())
    first.client.set_registered_model_alias(registered, "headline", version.version)
    parsed = _parse_model_uri(f"models:/{registered}@headline")
    assert (parsed.name, parsed.alias) == (registered, "headline")
    found = first.client.search_model_versions(f"name = '{registered}' AND tags.`a` = 'b'")
    assert list(found) == []


@pytest.mark.parametrize(
    "name", ["Default", " a", "a ", "\t", "a\nb", "a\x00b", "...", "-", "''", "\u200b", "a\u2028b"]
)
def test_a_name_that_would_not_work_is_refused_when_params_are_read(name: str) -> None:
    with pytest.raises(ValueError, match="experiment=") as error:
        changed_params(tracking__experiment=name)
    assert error.value


def test_a_tag_is_found_whatever_it_holds(root: Path) -> None:
    """Git lets a branch, and so DVC an experiment, have a name with quotes of both kinds."""
    store = connect(root)
    values = [*NAMES, "it_s", "IT'S", "100%", "%", "_", "a''b", "' OR '1'='1"]
    for value in values:
        store.client.create_run(store.experiment, tags={PIPELINE: value})
    for value in values:
        assert [r.data.tags[PIPELINE] for r in runs_with_tag(store, PIPELINE, value)] == [value]
    assert runs_with_tag(store, PIPELINE, "absent") == []


# --- where files are


@pytest.mark.parametrize(
    ("location", "uri", "said"),
    [
        ("mlflow-artifacts:/3", None, "created through a server"),
        ("file:///nowhere/mlruns/1", None, "which does not exist; mount or create that folder"),
        ("/nowhere/else", None, "which does not exist; mount or create that folder"),
        ("file:///nowhere/mlruns/1", "http://host", "a folder on the server's machine"),
        ("mlflow-artifacts:/3", "http://host", None),
        ("s3://bucket/1", None, None),
        ("file:///tmp", None, None),
        ("file://ROOT/mlruns/1", None, None),
    ],
)
def test_files_that_could_not_be_written_are_noticed_before(
    location: str,
    uri: str | None,
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    address = address_of(tmp_path)
    location = location.replace("ROOT", str(tmp_path.resolve()))
    if said is None:
        check_files(location, address, "x")
        return
    with pytest.raises(UserError, match=said) as error:
        check_files(location, address, "x")
    assert "tracking.experiment" in str(error.value)
    assert not Path("/nowhere").exists()


def paths_in(root: Path) -> set[str]:
    store = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = store.search_experiments(filter_string="name != 'Default'")
    runs = store.search_runs([e.experiment_id for e in experiments])
    return {e.artifact_location for e in experiments} | {r.info.artifact_uri for r in runs}


@pytest.mark.parametrize("name", ["moved", "a new place", "größe's % #1"])
@pytest.mark.parametrize("kept", [False, True], ids=["moved", "copied"])
def test_a_store_follows_its_project(name: str, kept: bool, root: Path) -> None:
    store = connect(root)
    store.client.create_run(store.experiment)
    new = root.parent / name
    if kept:
        shutil.copytree(root, new)
    else:
        root.rename(new)
    with pytest.warns(UserWarning, match=f"MLflow: this project used to be in {root};"):
        connect(new)
    here = (new / "mlartifacts").as_uri()
    assert all(path == here or path.startswith(f"{here}/") for path in paths_in(new))
    connect(new)  # and says it once
    if kept:
        assert all(path.startswith((root / "mlartifacts").as_uri()) for path in paths_in(root))


def made_by_mlflow(root: Path, folder: Path) -> None:
    """Let the experiment be one that MLflow's own server made when it was started in a folder."""
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'semi-mae'",
            (f"{folder}/mlruns/1",),
        )
        database.execute("DELETE FROM experiment_tags")


def test_an_experiment_of_mlflow_s_own_making_follows_too(root: Path) -> None:
    made_by_mlflow(root, root.parent / "before")
    with pytest.warns(UserWarning, match="MLflow: this project used to be in .*/before;"):
        store = connect(root)
    assert store.location == str(root / "mlruns" / "1")


def test_a_folder_that_somebody_chose_stays(root: Path) -> None:
    chosen = root.parent / "big disk"
    (chosen / "mlruns" / "1").mkdir(parents=True)
    made_by_mlflow(root, chosen)
    assert connect(root).location == f"{chosen}/mlruns/1"


# --- ui and serve


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


def test_serving_before_training_is_one_line_that_says_what_to_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(root))
    with pytest.raises(
        UserError, match=r"no model models:/semi-mae@headline .*; `make repro` trains"
    ):
        run("serve")
    for path in root.glob("mlflow.db*"):
        path.unlink()
    with pytest.raises(UserError, match=r"mlflow\.db does not exist; `make repro` trains"):
        run("serve")
    assert not (root / "mlflow.db").exists()
    (root / "runs" / "headline" / "train").mkdir(parents=True)
    for file in ("linear_probe.json", "train/model.safetensors"):
        (root / "runs" / "headline" / file).touch()
    with pytest.raises(UserError, match=f"{SYNC} registers the headline"):
        run("serve")
    with pytest.raises(UserError, match=r"models:/other@headline.*`make serve MODEL=semi-mae`"):
        run("serve", "--model", "other")


def test_a_store_that_is_away_is_one_line_for_serve_and_ui(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLflow: http://127\.0\.0\.1:9: .*refused; try") as error:
        run("serve")
    assert "\n" not in str(error.value)
    assert run("ui").startswith("Runs: http://127.0.0.1:9/#/experiments")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_of_another_program_is_refused(
    host: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(root))
    with socket.create_server((host, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used .another program"):
            run("ui", "--port", str(port))


def test_make_hands_the_port_on() -> None:
    def printed(*arguments: str) -> str:
        command = ["make", "-n", "-C", str(REPO), "-o", "setup", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert 'pipeline ui --port "5005"' in printed("ui", "PORT=5005")
    assert 'pipeline serve --port "5006" --model "mine"' in printed(
        "serve", "PORT=5006", "MODEL=mine"
    )
    assert "--" not in printed("ui").partition("pipeline ui")[2].replace("make: ", "")


def test_ui_and_serve_have_ports_of_their_own() -> None:
    for command, port in (("ui", "5000"), ("serve", "5001")):
        assert port in run(command, "--help")


# --- a stage's own words


def test_a_stage_says_what_has_to_be_done_and_not_that_all_is_well(root: Path) -> None:
    store: Store = connect(root)
    store.client.delete_experiment(store.experiment)
    with pytest.warns(UserWarning, match=r"MLflow: .*experiments restore") as said:
        assert not publish(root / "runs" / "headline", root)
    assert len(said) == 1
    assert AWAY not in str(said[0].message)
