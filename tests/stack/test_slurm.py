"""Cells as jobs of a real Slurm: requeued, left alone, canceled; the bits are those of one machine.

`make slurm-test` runs it, where Slurm is installed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from support import copy_project, set_params

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SEMIMAE_SLURM" not in os.environ, reason="`make slurm-test` runs it"),
]
WHEN = {"timing.json", "origin.json", "machine.json", "phases.json"}
PATIENCE = 900.0
SMALL: dict[str, object] = {
    "label_fraction": 0.1,
    "train__steps": 60,
    "train__save_every": 5,
    "train__device": "cpu",
    "fine_tune__steps": 4,
    "fine_tune__optim__warmup_steps": 1,
    "ablation__method": ["fixmatch", "semi_mae"],
    "ablation__mask_ratio": [0.5, 0.75],
    "ablation__label_fraction": [0.1],
    "ablation__seed": [0, 1],
    "tracking__log_model": False,
}  # six cells that differ: a mask ratio makes no other fixmatch


def make(folder: Path) -> Path:
    copy_project(folder)
    set_params(folder, **SMALL)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    if reason := slurm.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # munge's own user must get in
        with slurm.cluster(Path(name)) as found:
            yield found


def start(folder: Path, environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    variables = environment | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "grid", *options],
        cwd=folder,
        env={k: v for k, v in variables.items() if not k.startswith(("DVC_", "MLFLOW_"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == expected, said
    return said


def queue(environment: dict[str, str]) -> dict[str, str]:
    command = ["squeue", "-h", "-r", "-o", "%i %T"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(line.split() for line in done.stdout.splitlines())


def checkpoints(folder: Path) -> set[Path]:
    return set(folder.glob(".semimae/resume/*/step-*.json"))


def wait(happens: object, process: subprocess.Popen[str]) -> None:
    assert callable(happens)
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.name not in WHEN}


def test_six_cells_of_a_cluster_survive_all_of_this_with_the_bits_of_one_machine(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = make(tmp_path / "cluster")

    first = start(folder, environment, "--on", "slurm", "--cancel")
    wait(lambda: checkpoints(folder), first)
    first.send_signal(signal.SIGINT)
    said = finish(first, 130)
    assert "save a checkpoint first" in said
    assert "of 6 cells are done and recorded. The same command continues." in said
    assert queue(environment) == {}
    assert checkpoints(folder)

    second = start(folder, environment, "--on", "slurm")
    running = lambda: [j for j, state in queue(environment).items() if state == "RUNNING"]  # noqa: E731
    before = checkpoints(folder)
    wait(lambda: running() and checkpoints(folder) - before, second)
    second.kill()  # not even time to say good-bye
    second.communicate()
    jobs = set(queue(environment))
    assert jobs

    third = start(folder, environment, "--on", "slurm")
    job = running()[0]
    requeue = ["scontrol", "requeue", job]
    assert subprocess.run(requeue, env=environment, check=False).returncode == 0
    wait(lambda: queue(environment).get(job) == "PENDING", third)
    # Slurm lets a requeued job wait for two minutes; a test need not.
    at_once = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    assert subprocess.run(at_once, env=environment, check=False).returncode == 0
    wait(lambda: queue(environment).get(job) != "PENDING", third)
    assert set(queue(environment)) <= jobs  # none was submitted again
    third.send_signal(signal.SIGINT)
    said = finish(third, 130)
    assert "jobs to Slurm. With --cancel they would end too." in said

    finish(start(folder, environment, "--on", "slurm"))
    status = [sys.executable, "-m", "dvc", "status"]
    done = subprocess.run(status, cwd=folder, check=True, capture_output=True, text=True)
    assert "up to date" in done.stdout

    alone = make(tmp_path / "alone")
    finish(start(alone, environment, "--jobs", "2"))
    assert files(folder) == files(alone)


def test_what_slurm_refuses_is_said_in_one_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = make(tmp_path)
    said = finish(start(folder, environment, "--on", "slurm", "--slurm", "partitoin=a"), 2)
    assert "error: Slurm: Unavailable parameter(s): ['partitoin']" in said
