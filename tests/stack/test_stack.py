"""A run against the stack of docker/compose.yaml, whose MLflow is killed while it trains."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from services import Stack, answers, postgres_programs
from support import copy_project, set_params

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SEMIMAE_STACK" not in os.environ, reason="`make stack-test` runs it"),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),  # boto's
]
SMALL: dict[str, object] = {
    "label_fraction": 0.1,
    "train__steps": 1200,
    "fine_tune__steps": 12,
    "ablation__method": ["semi_mae"],
    "ablation__mask_ratio": [0.75],
    "ablation__label_fraction": [0.1],
    "ablation__seed": [0],
}
PATIENCE = 1200.0  # training takes half a minute on two cores that do nothing else
WARNING = "nothing is lost"  # of pipeline.tracking


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    programs = postgres_programs()
    assert programs, "needs PostgreSQL's server programs; on Debian: apt-get install postgresql"
    # A test run that is ended from outside must not leave servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL's own user must get in
        with Stack(folder, programs).running() as running:
            yield running


@pytest.fixture(scope="module")
def project(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    set_params(folder, **SMALL)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment(stack), check=True)
    return folder


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        yield MlflowClient(stack.url)


def environment(stack: Stack) -> dict[str, str]:
    author = {
        f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return stack.clean() | author | {"PATH": path, "MLFLOW_TRACKING_URI": stack.url}


def call(stack: Stack, project: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env=environment(stack),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def runs(client: MlflowClient, tag: str) -> list[Run]:
    experiment = client.get_experiment_by_name("semi-mae")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if tag in run.data.tags]


def points(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    """All values of all metrics of a run, by name and in the order of steps."""
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def everything(client: MlflowClient) -> list[Any]:
    return [
        (run.info.run_id, run.info.status, run.data.params, run.data.tags, points(client, run))
        for run in runs(client, "mlflow.runName")
    ]


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the store must have of a cell, from its stage files alone."""

    def read(name: str) -> Any:
        return json.loads((folder / name).read_text())

    found: dict[str, list[tuple[int, float]]] = {}
    rows = read("train/history.json") + read("train/validation.json")
    for row, clock in zip(rows, read("train/timing.json"), strict=True):
        assert row["step"] == clock["step"]
        for name, value in (clock | row).items():
            if name not in ("step", "time_ms"):
                found.setdefault(name, []).append((row["step"], value))
    for stage in ("linear_probe", "fine_tune"):
        for protocol, scores in read(f"{stage}.json")["protocols"].items():
            for name in ("top1", "top5", "ece", "nll"):
                value = scores.get(name)
                value = value["value"] if isinstance(value, dict) else value
                if value is not None:
                    found[f"test/{protocol}/{name}"] = [(0, value)]
    return {name: sorted(values) for name, values in found.items()}


# The tests of this module are steps of one story and run in their order.


def test_1_the_server_answers_its_clients_and_no_other_name(stack: Stack) -> None:
    url = f"{stack.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert answers(url, host="mlflow:5000") == 200
    assert answers(url, host="elsewhere.example.org") == 403


def test_2_training_goes_on_while_the_server_is_killed_and_started_again(
    stack: Stack, project: Path, client: MlflowClient
) -> None:
    log = project / "train.log"
    with log.open("wb") as out:
        trainer = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "train"],
            cwd=project,
            env=environment(stack),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def during_training(what: str) -> Iterator[None]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert trainer.poll() is None, f"ended before {what}:\n{log.read_text()}"
            yield
            time.sleep(0.2)
        raise AssertionError(f"{what} did not happen:\n{log.read_text()}")

    try:
        for _ in during_training("its first row was logged"):
            if any("loss/total" in run.data.metrics for run in runs(client, "semimae.cell_id")):
                break
        (run,) = runs(client, "semimae.cell_id")
        before = points(client, run)
        stack.mlflow.stop(signal.SIGKILL)
        for _ in during_training("it noticed that the server is away"):
            if WARNING in log.read_text():
                break
        os.killpg(trainer.pid, signal.SIGSTOP)  # the server is back before the training ends
        stack.mlflow.start()
        stack.wait_for_mlflow()
        os.killpg(trainer.pid, signal.SIGCONT)
        assert trainer.poll() is None
        assert trainer.wait(PATIENCE) == 0, log.read_text()
    finally:
        if trainer.poll() is None:
            os.killpg(trainer.pid, signal.SIGKILL)
            trainer.wait()
    assert log.read_text().count(WARNING) == 1
    (run,) = runs(client, "semimae.cell_id")
    after = points(client, run)
    lost = [name for name, values in before.items() if not set(values) <= set(after[name])]
    assert not lost


def test_3_after_the_rest_and_a_sync_the_store_has_exactly_the_stage_files(
    stack: Stack, project: Path, client: MlflowClient
) -> None:
    call(stack, project, "dvc", "repro")
    said = call(stack, project, "pipeline", "sync-mlflow")
    assert "The store has all 1 finished runs" in said
    assert WARNING not in said
    (run,) = runs(client, "semimae.cell_id")
    assert run.info.status == "FINISHED"
    assert run.data.params["label_fraction"] == "0.1"
    history = expected(project / "runs/headline")
    assert len(history["loss/total"]) > 10
    assert points(client, run) == history


def test_4_the_report_is_in_the_object_store(
    stack: Stack, project: Path, client: MlflowClient
) -> None:
    (parent,) = runs(client, "semimae.pipeline")
    assert parent.info.status == "FINISHED"
    page = Path(client.download_artifacts(parent.info.run_id, "reports/index.html"))
    assert page.read_bytes() == (project / "reports/index.html").read_bytes()
    store = boto3.client(
        "s3",
        endpoint_url=stack.s3_url,
        region_name="us-east-1",
        aws_access_key_id=stack.secrets["S3_ACCESS_KEY"],
        aws_secret_access_key=stack.secrets["S3_SECRET_KEY"],
    )
    names = [entry["Key"] for entry in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert [name for name in names if name.endswith("reports/index.html")]


def test_5_another_sync_and_another_kill_change_nothing(
    stack: Stack, project: Path, client: MlflowClient
) -> None:
    before = everything(client)
    call(stack, project, "pipeline", "sync-mlflow")
    stack.mlflow.stop(signal.SIGKILL)
    stack.mlflow.start()
    stack.wait_for_mlflow()
    assert everything(client) == before


def test_6_without_the_password_nobody_gets_into_the_database(stack: Stack) -> None:
    psql = [str(stack.programs / "psql"), "-h", "127.0.0.1", "-p", str(stack.ports["postgres"])]
    command = [*psql, "-U", "mlflow", "--no-password", "-c", "select 1"]
    for password in ({}, {"PGPASSWORD": "wrong"}):
        env = stack.clean() | password
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "password" in done.stderr
