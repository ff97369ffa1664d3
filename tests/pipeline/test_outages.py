"""A store that fails costs a warning per stage; a sync makes it what it would have been."""

import contextlib
import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from stages import StageServer, Workspace, free_port
from support import PATIENCE, Time, wait_until

from pipeline.tracking import LiveRun, runs

pytestmark = pytest.mark.slow

EVERY = ("train", "linear-probe", "fine-tune")
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
CLOCK = ("seconds", "cpu_seconds", "data_wait")  # metrics that no two runs share


def run_all(server: StageServer, workspace: Workspace, **options: object) -> list[str]:
    """Run every stage; return what each printed."""
    return [server.finish(command, workspace, DVC_STAGE=command, **options) for command in EVERY]


@pytest.fixture(scope="module")
def online(server: StageServer, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose store was there all the time."""
    workspace = Workspace(
        tmp_path_factory.mktemp("online"), train__steps=12, train__log_every=1, fine_tune__steps=3
    )
    assert run_all(server, workspace, patient=True) == ["", "", ""]
    (workspace.root / "reports").mkdir()
    (workspace.root / "reports" / "summary.json").write_text("{}\n")
    server.finish("sync-mlflow", workspace)  # what stage `report` logs
    return workspace


@pytest.fixture
def fresh(online: Workspace, tmp_path: Path) -> Workspace:
    """The same before anything has run."""
    workspace = online.copy(tmp_path)
    for path in (".semimae", "mlartifacts", "runs/headline/train"):
        shutil.rmtree(workspace.root / path)
    for path in ("fine_tune.json", "linear_probe.json", "reconstructions.npz"):
        (workspace.cell / path).unlink()
    for file in workspace.root.glob("mlflow.db*"):
        file.unlink()
    return workspace


def state_of(workspace: Workspace) -> list[Any]:
    """Everything that the store says, without ids and times."""
    client = MlflowClient(f"sqlite:///{workspace.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}

    def content(run: Run) -> dict[str, Any]:
        tags = dict(run.data.tags)
        identity = run.info.run_id
        return {
            "name": run.info.run_name,
            "status": run.info.status,
            "params": run.data.params,
            "tags": tags,
            "metrics": {
                name: [(m.step, m.value) for m in client.get_metric_history(identity, name)]
                for name in run.data.metrics
                if name not in CLOCK and not name.startswith("system/")
            },
            "clocks": {name: name in run.data.metrics for name in CLOCK},
            "datasets": [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
            "artifacts": [file.path for file in client.list_artifacts(identity, "reports")],
        }

    return sorted((content(run) for run in runs.values()), key=lambda each: str(each["name"]))


def assert_mended(server: StageServer, workspace: Workspace, online: Workspace) -> None:
    """Nothing is lost, and a sync brings the store to the state that it would have had."""
    for command in EVERY:
        assert workspace.result(command) == online.result(command)
    server.finish("sync-mlflow", workspace)
    assert state_of(workspace) == state_of(online)
    server.finish("sync-mlflow", workspace)  # repeating it changes nothing
    assert state_of(workspace) == state_of(online)


def test_the_store_that_all_are_compared_with_has_everything(online: Workspace) -> None:
    report, headline = state_of(online)
    assert headline["status"] == report["status"] == "FINISHED"
    assert headline["tags"]["semimae.invocation"] == "workspace@uncommitted"
    assert report["name"] == "report workspace@uncommitted"
    assert headline["tags"]["dvc.stage"] == "train"
    assert headline["params"]["num_labeled"] == "40"
    assert [step for step, _ in headline["metrics"]["loss/total"]] == list(range(1, 13))
    assert {"test/classifier/top1", "test/knn/top1", "test/fine_tune/top1"} <= set(
        headline["metrics"]
    )
    assert {"headline/classifier/top1", "headline/fine_tune/top1"} <= set(report["metrics"])
    assert headline["datasets"][0][0] == "digits"
    assert report["artifacts"] == ["reports/summary.json"]


def test_the_load_of_the_machine_is_logged_while_a_stage_trains(online: Workspace) -> None:
    client = MlflowClient(f"sqlite:///{online.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`semimae.cell_id` LIKE '%'")
    assert ["system/cpu_utilization_percentage" in run.data.metrics for run in runs] == [True]


# --- outages


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    with socket.socket() as reserved:  # bound but not listening
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    with socket.socket() as listening:  # it accepts, and never says a word
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def failing() -> Iterator[str]:
    class Answer500(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer500) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.mark.parametrize("outage", [refusing, hanging, failing], ids=lambda f: f.__name__)
def test_a_server_that_does_not_answer(
    outage: Callable[[], contextlib.AbstractContextManager[str]],
    server: StageServer,
    online: Workspace,
    fresh: Workspace,
) -> None:
    with outage() as address:
        texts = run_all(server, fresh, MLFLOW_TRACKING_URI=address, **QUICK)
    for text in texts:
        (line,) = text.splitlines()
        assert line.startswith("warning: MLflow: ")
        assert line.endswith("nothing is lost: `python -m pipeline sync-mlflow` logs it later")
    assert_mended(server, fresh, online)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("requests", [2, 6])
def test_a_server_that_is_killed_in_mid_run(
    requests: int, server: StageServer, online: Workspace, fresh: Workspace
) -> None:
    """MLflow's own, on the store that is looked at later."""
    port = free_port()
    killed = server.start(f"serve {port} {requests}", fresh)
    wait_until(lambda: listens(port))
    patient = {"patient": True, "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{PATIENCE:.0f}"}  # until it dies
    address = f"http://127.0.0.1:{port}"
    texts = run_all(server, fresh, MLFLOW_TRACKING_URI=address, **(QUICK | patient))
    assert killed.wait() == -signal.SIGKILL, killed.text
    assert all(text.count("warning: MLflow") == 1 for text in texts), texts
    assert_mended(server, fresh, online)


def test_a_database_that_another_writer_has_locked(
    server: StageServer, online: Workspace, tmp_path: Path
) -> None:
    locked = online.copy(tmp_path)  # with a store that knows all about other weights
    shutil.rmtree(locked.cell / "train")
    with contextlib.closing(sqlite3.connect(locked.root / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        texts = run_all(server, locked)
        other.rollback()
    assert all(text.count("warning: MLflow") == 1 for text in texts), texts
    assert_mended(server, locked, online)


def test_an_artifact_store_that_cannot_be_written(
    server: StageServer, online: Workspace, fresh: Workspace
) -> None:
    assert run_all(server, fresh, patient=True) == ["", "", ""]
    artifacts = fresh.root / "mlartifacts"
    artifacts.touch()  # a file in its place refuses root too, as a read-only disk would
    stage = server.start("sync-mlflow", fresh)
    assert stage.wait() == 1
    assert stage.text.count("warning: MLflow") == 1
    artifacts.unlink()
    assert_mended(server, fresh, online)


# --- what it costs


@pytest.mark.parametrize("place", ["connect", "find_run", "log_rows"])
def test_an_outage_does_not_hold_up_the_steps(
    place: str, online: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are handed over while the store keeps the thread that talks to it waiting."""
    workspace = online.copy(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.warns(UserWarning, match="this project used to be in"):
        runs.connect(workspace.root)
    whole, asked, answer = getattr(runs, place), threading.Event(), threading.Event()

    def waiting(*given: Any) -> Any:
        asked.set()
        assert answer.wait(PATIENCE)
        return whole(*given)

    monkeypatch.setattr(runs, place, waiting)
    monkeypatch.setattr(runs, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", (PATIENCE, PATIENCE))
    live = LiveRun(workspace.cell, workspace.root)
    with live:
        assert asked.wait(PATIENCE)
        for step in range(500):
            live.add({"step": 1000 + step, "time_ms": step, "loss": 1.0})
        assert not answer.is_set()
        answer.set()
    assert not live.warned


def test_the_wait_at_the_end_is_a_twentieth_of_a_stage_within_limits(
    online: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    monkeypatch.setattr(runs, "time", clock)
    live = LiveRun(online.cell, online.root)
    live.opened = True
    for took, patience in ((1, 5), (100, 5), (400, 20), (36_000, 30)):
        clock.seconds = live.began + took
        assert live._patience() == patience


# --- first use


def test_eight_processes_may_be_the_first_at_the_same_time(
    server: StageServer, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path, cells=8, train__steps=2, fine_tune__steps=1)
    cells = sorted((workspace.root / "runs").iterdir())
    later = {"SEMIMAE_LOG_LATER": "1"}
    for cell in cells:
        server.finish("train", workspace, cell=cell, **later)
    stages = [server.start("publish", workspace, cell=cell) for cell in cells]
    assert [stage.wait() for stage in stages] == [0] * 8, [stage.text for stage in stages]
    assert {stage.text for stage in stages} == {""}
    runs = state_of(workspace)  # the invocation has no report yet
    assert [run["params"]["seed"] for run in runs] == [str(seed) for seed in range(8)]
    assert {run["status"] for run in runs} == {"FINISHED"}


def test_a_store_that_is_half_made_when_its_maker_is_killed(
    server: StageServer, online: Workspace, fresh: Workspace
) -> None:
    """Killed before each of the changes of files that lead to a fresh store."""
    later = {"SEMIMAE_LOG_LATER": "1"}
    run_all(server, fresh, **later)
    for number in range(1, 7):
        stage = server.start("publish", fresh, die_at=number)
        if stage.wait() == 0:
            break
    assert number > 3
    assert_mended(server, fresh, online)
