"""The training command as a process: killed, stopped, started twice, without a tracking server."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML
from support import REPO, changed_params

from semimae.data.prepare import prepare
from semimae.data.split import make_split
from semimae.data.store import Prepared

pytestmark = pytest.mark.slow

STEPS = 60


class Workspace:
    """A folder with params.yaml, prepared digits and one cell, as DVC's stages leave it."""

    def __init__(self, root: Path) -> None:
        self.root, self.cell = root, root / "runs" / "headline"
        params = changed_params(
            train__steps=STEPS, train__save_every=7, train__log_every=5, train__eval_every=15
        )
        self.cell.mkdir(parents=True)
        with (root / "params.yaml").open("w") as file:
            YAML().dump(json.loads(params.model_dump_json()), file)
        (root / "dvc.yaml").touch()
        prepare("digits", params.data, root, root / "prepared")
        cell = params.cell()
        cell.write(self.cell / "config.json")
        make_split(
            Prepared.read(root / "prepared"),
            seed=cell.seed,
            num_labels=cell.num_labels,
            val_fraction=cell.data.val_fraction,
            include_labeled=True,
        ).write(self.cell / "split.json")

    def start(self, command: str = "train", **environment: str) -> subprocess.Popen[str]:
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
        variables |= {"PYTHONPATH": str(REPO), "DVC_ROOT": str(self.root)} | environment
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", command],
            cwd=self.cell,
            env=variables,
            text=True,
            stderr=subprocess.PIPE,
        )

    def finish(self, command: str = "train", **environment: str) -> str:
        process = self.start(command, **environment)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return errors

    def wait_for_checkpoint(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not list(self.root.glob(".semimae/resume/*/step-*.json")):
            time.sleep(0.01)

    def result(self) -> dict[str, str]:
        names = ("model.safetensors", "history.json", "validation.json", "reconstructions.npz")
        files = [self.cell / "train" / name for name in names]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("whole"))
    workspace.finish()
    return workspace


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_continues_to_the_same_bits(
    how: signal.Signals, uninterrupted: Workspace, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    process = workspace.start()
    workspace.wait_for_checkpoint(process)
    time.sleep(random.Random(how).random() * 0.3)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode != 0, "it ended before it could be stopped"
    assert not (workspace.cell / "train").exists(), "nothing half-written stays"
    workspace.finish()
    assert workspace.result() == uninterrupted.result()


def test_the_second_process_on_a_cell_waits(uninterrupted: Workspace, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    processes = [workspace.start(), workspace.start()]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert workspace.result() == uninterrupted.result()


def test_an_absent_server_costs_a_warning_and_sync_logs_it_later(
    uninterrupted: Workspace, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    with socket.socket() as reserved:  # bound but not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        errors = workspace.finish(MLFLOW_TRACKING_URI=address)
    assert errors.count("warning: MLflow") == 1, errors
    assert workspace.result() == uninterrupted.result()
    workspace.finish("sync-mlflow")
    workspace.finish("sync-mlflow")  # repeating it changes nothing
    assert logged(workspace) == logged(uninterrupted)


def test_the_load_of_the_machine_is_logged(uninterrupted: Workspace) -> None:
    client = MlflowClient(f"sqlite:///{uninterrupted.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`semimae.cell_id` LIKE '%'")
    load = {name: value for name, value in run.data.metrics.items() if name.startswith("system/")}
    assert 0 < load["system/system_memory_usage_percentage"] <= 100
    assert 0 <= load["system/cpu_utilization_percentage"] <= 100
    assert load["system/disk_available_megabytes"] > 0


def logged(workspace: Workspace) -> dict[str, object]:
    """Return what the store says of the only cell, without times."""
    client = MlflowClient(f"sqlite:///{workspace.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`semimae.cell_id` LIKE '%'")
    (run,) = runs
    curves = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name not in ("seconds", "data_wait") and not name.startswith("system/")
    }
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("semimae.")}
    return {"status": run.info.status, "params": run.data.params, "tags": tags, "curves": curves}
