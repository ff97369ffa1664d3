"""The headline's model in MLflow: registered once, loadable and served without this project."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from PIL import Image
from runs import Project
from support import PATIENCE, REPO, wait_until

from pipeline.tracking import finish_pipeline, publish
from pipeline.tracking.model import served_model
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.infer import infer
from semimae.model_file import open_model
from semimae.options.params import Params
from semimae.types import UserError

pytestmark = pytest.mark.slow

# Neither package can be imported, whatever is installed.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("semimae", "pipeline"):
            raise ModuleNotFoundError(name)
if "pipeline" not in sys.orig_argv:  # which is what starts the server
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
    environment = outside(project, tmp_path) | {"DVC_ROOT": str(project.root)}
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
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ping"), lambda: server.poll() is None)
        images = project.prepared.images[:3]
        address = f"http://127.0.0.1:{port}/invocations"
        said = post(address, images.tolist())["predictions"]
        by_file = post(address, [png(image) for image in images])["predictions"]
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            post(address, (images / 255).tolist())
        reason = json.load(refused.value)["message"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)
    assert by_file == said
    assert re.fullmatch(r"image 0 has the value 0\.\d+; send integers in 0\.\.255, .*", reason)
    expected = infer(project.model, project.cell, project.prepared, np.arange(3))
    np.testing.assert_allclose(
        [row["probabilities"] for row in said], expected.probabilities, atol=1e-6
    )
    assert [row["class"] for row in said] == [
        str(i) for i in expected.probabilities.argmax(dim=1).tolist()
    ]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except OSError:
        return False


def post(url: str, inputs: Any) -> Any:
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.load(response)


def png(pixels: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def loads(project: Project) -> bool:
    """Whether the model behind the alias says what the headline's weights say."""
    mlflow.set_tracking_uri(f"sqlite:///{project.root / 'mlflow.db'}")
    assert project.prepared.images is not None
    images = project.prepared.images[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mlflow.pyfunc.load_model("models:/semi-mae@headline")
        said = model.predict(images)["probabilities"].tolist()
    expected = infer(project.model, project.cell, project.prepared, np.arange(2))
    return bool(np.allclose(said, expected.probabilities, atol=1e-6))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "all artifacts are gone": shutil.rmtree,
    "the model is gone": lambda artifacts: shutil.rmtree(artifacts / "models"),
    "one file is gone": lambda artifacts: next(artifacts.rglob("MLmodel")).unlink(),
    "one file is cut": lambda artifacts: largest(artifacts).write_bytes(b"half"),
}


def largest(folder: Path) -> Path:
    return max(filter(Path.is_file, folder.rglob("*")), key=lambda file: file.stat().st_size)


STORES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps the last store in the environment, where the next project would find it."""
    for name in STORES:
        monkeypatch.delenv(name, raising=False)
    utils._artifact_repos_cache.clear()  # where a model's files are, by its id alone


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registered")
    project = Project(root)
    with pytest.MonkeyPatch.context() as own:
        for name in STORES:
            own.delenv(name, raising=False)
        assert publish(project.run, project.root)
    return root


def taken_over(template: Path, root: Path) -> Project:
    """A copy of a project, in which all of it names the old place."""
    project = object.__new__(Project)
    shutil.copytree(template, root)
    utils._artifact_repos_cache.clear()
    project.root, project.run = root, root / "runs" / "headline"
    project.prepared = Prepared.read(root / "prepared", root)
    project.cell = Params.read(root / "params.yaml").cell()
    project.split = Split.read(project.run / "split.json", project.prepared)
    project.model = open_model(project.run).model
    return project


def test_a_moved_project_s_model_loads_after_a_sync(registered: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(registered, tmp_path / "old"))
    with pytest.warns(UserWarning, match="this project used to be in"):
        assert publish(old / "runs" / "headline", old)
    project = taken_over(old, tmp_path / "new")
    shutil.rmtree(old)
    with pytest.warns(UserWarning, match=f"this project used to be in {old};"):
        assert publish(project.run, project.root)
    assert versions(project) == [1]
    assert loads(project)
    project.model = project.train(seed=1)  # and what comes next is written to the new place
    assert publish(project.run, project.root)
    assert loads(project)
    assert not old.exists()


def test_a_copy_leaves_the_project_alone_from_which_it_was_taken(
    registered: Path, tmp_path: Path
) -> None:
    def content() -> dict[str, bytes]:
        files = filter(Path.is_file, (registered / "mlartifacts").rglob("*"))
        return {str(file): file.read_bytes() for file in files}

    before = content()
    project = taken_over(registered, tmp_path / "copy")
    project.model = project.train(seed=1)
    with pytest.warns(UserWarning, match="this project used to be in"):
        assert publish(project.run, project.root)
    assert versions(project) == [1, 2]
    assert loads(project)
    assert content() == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_whose_files_are_gone_is_registered_again(
    damage: str, registered: Path, tmp_path: Path
) -> None:
    project = taken_over(registered, tmp_path / "project")
    with pytest.warns(UserWarning, match="this project used to be in"):
        assert publish(project.run, project.root)
    DAMAGE[damage](project.root / "mlartifacts")
    with pytest.raises(UserError, match=r"version 1, are missing; .*sync-mlflow` registers"):
        served_model(project.root, None)
    with pytest.warns(UserWarning, match="version 1 are missing; .* again as version 2"):
        assert publish(project.run, project.root)
    assert (versions(project), headline(project)) == ([1, 2], 2)
    assert loads(project)
    assert publish(project.run, project.root)  # and that is that
    assert versions(project) == [1, 2]
