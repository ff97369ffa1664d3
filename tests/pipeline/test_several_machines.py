"""One run that several processes share: two of torchrun's nodes, on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from stages import StageServer, Workspace, free_port, variables
from support import PATIENCE

pytestmark = pytest.mark.slow

LATER = {"SEMIMAE_LOG_LATER": "1"}
# Nothing divides evenly: 3 labeled and 9 unlabeled images per step, 202 for validation.
UNEVEN = {
    "train__batch_size": 3,
    "train__mu": 3,
    "train__steps": 40,
    "train__save_every": 7,
    "train__log_every": 1,
    "train__eval_every": 20,
    "optim__lr": 1e-4,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("template"), **UNEVEN)


@pytest.fixture(scope="module")
def two(
    server: StageServer, template: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Trained by two processes in one go."""
    workspace = template.copy(tmp_path_factory.mktemp("two"))
    meeting = {"WORLD_SIZE": "2", "SEMIMAE_RENDEZVOUS": (workspace.root / "meeting").as_uri()}
    stages = [
        server.start("train", workspace, patient=True, RANK=rank, LOCAL_RANK=rank, **meeting)
        for rank in "01"
    ]
    assert [stage.wait() for stage in stages] == [0, 0], stages[0].text + stages[1].text
    assert [stage.text for stage in stages] == ["", ""]
    return workspace


def losses(workspace: Workspace) -> list[float]:
    rows = json.loads((workspace.cell / "train" / "history.json").read_text())
    return [row["loss/total"] for row in rows]


def test_uneven_shares_give_the_losses_of_one_process(
    server: StageServer, template: Workspace, two: Workspace, tmp_path: Path
) -> None:
    one = template.copy(tmp_path)
    server.finish("train", one, **LATER)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(one)) == 40


def test_only_the_first_process_writes_and_logs(two: Workspace) -> None:
    client = MlflowClient(f"sqlite:///{two.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("semi-mae")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`semimae.cell_id` LIKE '%'")
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss/total")
    assert [point.step for point in points] == list(range(1, 41))
    assert not two.leftovers()


@contextlib.contextmanager
def two_nodes(
    workspace: Workspace, outputs: list[Path]
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """What docs/scaling.md says to start on each machine."""
    port, nodes = free_port(), []
    try:
        for rank, output in enumerate(outputs):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
            command += ["--node-rank", str(rank), "--nproc-per-node", "1"]
            command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
            command += ["-m", "pipeline", "train"]
            variable = variables(workspace.root) | LATER
            with output.open("ab") as file:
                node = subprocess.Popen(command, cwd=workspace.cell, env=variable, stderr=file)
            nodes.append(node)
        yield nodes
    finally:
        for node in nodes:
            node.terminate()
            node.wait()


def worker_of(parent: int) -> int:
    for thread in Path(f"/proc/{parent}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if b"\0pipeline\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("torchrun has no worker")


def test_two_nodes_of_torchrun_of_which_one_dies_and_both_come_back(
    template: Workspace, two: Workspace, tmp_path: Path
) -> None:
    workspace = template.copy(tmp_path / "project")
    outputs = [tmp_path / "node-0.log", tmp_path / "node-1.log"]
    with two_nodes(workspace, outputs) as nodes:
        workspace.wait_for_checkpoint()
        os.kill(worker_of(nodes[1].pid), signal.SIGKILL)
        codes = [node.wait(PATIENCE) for node in nodes]
    assert all(codes), codes
    assert "process 0: another process of the run has ended" in outputs[0].read_text()
    assert "SIGKILL" in outputs[1].read_text()
    assert not (workspace.cell / "train").exists()
    with two_nodes(workspace, outputs) as nodes:
        codes = [node.wait(PATIENCE) for node in nodes]
    assert codes == [0, 0], outputs[0].read_text()
    assert workspace.result() == two.result()
    assert not workspace.leftovers()
