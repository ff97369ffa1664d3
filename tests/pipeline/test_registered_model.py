"""The headline's model in MLflow: registered once, loadable and served without this project."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from runs import Project
from support import REPO

from pipeline.tracking import finish_pipeline, publish
from semimae.engine.infer import infer

pytestmark = pytest.mark.slow

# Neither package can be imported, whatever is installed.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("semimae", "pipeline"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""
LOAD = """
import json, mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/semi-mae@headline")
answers = model.predict(np.load("images.npy"))
print(json.dumps([answers.to_dict("list"), model.metadata.metadata["classes"]]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(project: Project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")


def versions(project: Project) -> list[int]:
    return sorted(int(v.version) for v in client(project).search_model_versions())


def headline(project: Project) -> int:
    return int(client(project).get_model_version_by_alias("semi-mae", "headline").version)


def outside(project: Project, folder: Path) -> dict[str, str]:
    """The environment of a process that knows the store and nothing of this project."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON", "DVC_"))}
    kept["MLFLOW_TRACKING_URI"] = f"sqlite:///{project.root / 'mlflow.db'}"
    kept["PYTHONPATH"] = str(folder)  # holds a sitecustomize.py with BLOCK
    (folder / "sitecustomize.py").write_text(BLOCK)
    return kept


# The tests of this module are steps of one story and run in their order.


def test_1_without_log_model_no_model_is_logged(project: Project) -> None:
    project.params(tracking__log_model=False)
    assert publish(project.run, project.root)
    assert versions(project) == []
    project.params()


def test_2_the_scored_headline_is_registered_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIMAE_LOG_LATER", "1")  # is for stages; what is asked for is done
    monkeypatch.chdir(project.run)  # as DVC's stages
    for folder in (Path(), project.run):
        assert publish(folder, project.root)
        assert versions(project) == [1]
        assert headline(project) == 1
    version = client(project).get_model_version("semi-mae", "1")
    (model,) = client(project).search_logged_models(
        [client(project).get_experiment_by_name("semi-mae").experiment_id]
    )
    assert version.source == f"models:/{model.model_id}"
    assert model.source_run_id == version.run_id
    assert project.prepared.info.fingerprint in version.description  # the card


def test_3_other_weights_take_the_alias_and_give_it_back(project: Project) -> None:
    project.train(seed=1)
    reports = project.root / "reports"
    reports.mkdir()
    (reports / "summary.json").write_text("{}")
    assert finish_pipeline(project.root, project.run, reports)  # as `dvc repro` ends
    assert (versions(project), headline(project)) == ([1, 2], 2)
    project.train(seed=0)
    assert publish(project.run, project.root)
    assert (versions(project), headline(project)) == ([1, 2], 1)


def test_4_cells_of_the_grid_and_of_other_workspaces_are_not_registered(
    project: Project, tmp_path: Path
) -> None:
    elsewhere = Project(tmp_path / "elsewhere", seed=1)
    assert publish(elsewhere.run, project.root)  # as a queued experiment does
    twin = project.root / "runs" / "twin"
    os.symlink(elsewhere.run, twin)
    assert publish(twin, project.root)
    assert versions(project) == [1, 2]


def test_5_an_absent_server_costs_one_warning(project: Project) -> None:
    with socket.socket() as reserved:  # bound but not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.warns(UserWarning, match="MLflow: .* sync-mlflow") as said:
            assert not publish(project.run, project.root)
    assert len(said) == 1


def test_6_it_loads_where_torch_timm_and_mlflow_are_all_there_is(
    project: Project, tmp_path: Path
) -> None:
    assert project.prepared.images is not None
    np.save(tmp_path / "images.npy", project.prepared.images[:5])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        cwd=tmp_path,
        env=outside(project, tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    answers, classes = json.loads(run.stdout)
    expected = infer(project.model, project.cell, project.prepared, np.arange(5))
    np.testing.assert_allclose(answers["probabilities"], expected.probabilities, atol=1e-6)
    best = expected.probabilities.max(dim=1)
    np.testing.assert_allclose(answers["probability"], best.values, atol=1e-6)
    assert answers["class"] == [str(i) for i in best.indices.tolist()]
    assert classes == list(project.prepared.info.class_names)


def test_7_make_serve_answers_a_request(project: Project, tmp_path: Path) -> None:
    assert project.prepared.images is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = outside(project, tmp_path)
    command = ["make", "-s", "-C", str(REPO), "serve", f"PORT={port}", "-o", "setup"]
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    server = subprocess.Popen(
        [*command, f"VENV={Path(sys.executable).parents[1]}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/ping", server)
        body = json.dumps({"inputs": project.prepared.images[:3].tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            said = json.load(response)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    expected = infer(project.model, project.cell, project.prepared, np.arange(3))
    np.testing.assert_allclose(
        [row["probabilities"] for row in said], expected.probabilities, atol=1e-6
    )
    assert [row["class"] for row in said] == [
        str(i) for i in expected.probabilities.argmax(dim=1).tolist()
    ]


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(900):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer")
