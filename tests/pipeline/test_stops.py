"""Stages that are asked to stop, run out of disk, or meet another process on their cell."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stages import StageServer, Workspace, variables
from support import wait_until

pytestmark = pytest.mark.slow

LATER = {"SEMIMAE_LOG_LATER": "1"}  # the store has tests of its own
EVERY = ("train", "fine-tune", "linear-probe")


@pytest.fixture(scope="module")
def whole(server: StageServer, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which all stages have run, each in one go."""
    workspace = Workspace(
        tmp_path_factory.mktemp("whole"),
        train__steps=60,
        train__save_every=7,
        train__log_every=5,
        train__eval_every=15,
        fine_tune__steps=40,
    )
    for command in EVERY:
        server.finish(command, workspace, **LATER)
    return workspace


@pytest.fixture
def workspace(whole: Workspace, tmp_path: Path) -> Workspace:
    return whole.copy(tmp_path)


def test_the_command_itself_killed_and_run_again(whole: Workspace, workspace: Workspace) -> None:
    """As DVC starts it; the other tests fork, to be quick."""

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipeline", "train"]
        return subprocess.Popen(command, cwd=workspace.cell, env=variables(workspace.root) | LATER)

    killed = 0
    while killed != -signal.SIGKILL:  # unless it was done before it could be killed
        shutil.rmtree(workspace.cell / "train", ignore_errors=True)
        process = start()
        while process.poll() is None and not workspace.checkpoints():
            time.sleep(0.001)
        process.kill()
        killed = process.wait()
    assert start().wait() == 0
    assert workspace.result() == whole.result()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
@pytest.mark.parametrize("command", ["train", "fine-tune"])
def test_a_stage_that_is_asked_to_stop_saves_and_ends(
    command: str,
    number: signal.Signals,
    server: StageServer,
    whole: Workspace,
    workspace: Workspace,
) -> None:
    """It is asked while it changes files, in the midst of its steps."""
    change = random.Random(f"{command} {number}").randrange(5, 25)
    stage = server.start(command, workspace, halt_at=change, **LATER)
    stage.wait_until_halted()
    stage.send(number)
    stage.send(signal.SIGCONT)
    assert stage.wait() == 130, stage.text
    step = int(workspace.checkpoints()[-1].stem.removeprefix("step-"))
    assert stage.text == f"stopped after step {step}; the next run continues from there\n"
    server.finish(command, workspace, **LATER)
    assert workspace.result(command) == whole.result(command)
    assert not workspace.leftovers()


@pytest.mark.parametrize("command", ["train", "fine-tune"])
@pytest.mark.parametrize("seed", range(2))
def test_a_full_disk_ends_the_stage_with_one_line_and_keeps_the_last_checkpoint(
    command: str, seed: int, server: StageServer, whole: Workspace, workspace: Workspace
) -> None:
    """A limit to the size of a file, set from outside in mid-run, is a disk that fills up."""
    bytes_left = random.Random(f"{command} {seed}").choice([1_000, 5_000, 20_000])
    stage = server.start(command, workspace, halt_at=20, **LATER)
    stage.wait_until_halted()
    assert workspace.checkpoints()
    resource.prlimit(stage.pid, resource.RLIMIT_FSIZE, (bytes_left, bytes_left))
    stage.send(signal.SIGCONT)
    assert stage.wait() == 2, stage.text
    (line,) = [line for line in stage.text.splitlines() if not line.startswith("warning: MLflow")]
    assert line.startswith("error: File too large: ")
    assert line.endswith(
        "what was saved before is kept. Fix the problem, then run the same command again."
    )
    assert workspace.checkpoints()
    assert not list(workspace.root.rglob("*.tmp"))
    text = server.finish(command, workspace, **LATER)
    assert "passed over" not in text
    assert workspace.result(command) == whole.result(command)


@pytest.mark.parametrize("command", EVERY)
def test_a_really_full_disk(
    command: str, server: StageServer, whole: Workspace, tmp_path: Path
) -> None:
    """The same on a small file system, where this user may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        workspace = whole.copy(tmp_path)
        ballast = tmp_path / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(16 << 20))
        stage = server.start(command, workspace, **LATER)
        assert stage.wait() == 2
        assert workspace.result(command) == whole.result(command)
        assert not list(tmp_path.rglob("*.tmp"))
        ballast.unlink()
        server.finish(command, workspace, **LATER)
        assert workspace.result(command) == whole.result(command)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("command", EVERY)
def test_the_second_process_on_a_cell_waits(
    command: str, server: StageServer, whole: Workspace, workspace: Workspace
) -> None:
    first = server.start(command, workspace, halt_at=6, **LATER)
    first.wait_until_halted()
    assert first.holds(list(workspace.root.glob(f".semimae/resume/*{command}*.lock")))
    second = server.start(command, workspace, **LATER)
    wait_until(lambda: bool(second.text))
    first.send(signal.SIGCONT)
    assert (first.wait(), second.wait()) == (0, 0), first.text + second.text
    assert first.text == ""
    assert "another process is working on" in second.text
    assert workspace.result(command) == whole.result(command)
    assert not workspace.leftovers()


def test_a_process_that_waits_can_be_stopped_and_several_refuse(
    server: StageServer, workspace: Workspace
) -> None:
    first = server.start("train", workspace, halt_at=20, **LATER)
    first.wait_until_halted()  # an orphan that takes its time
    try:
        second = server.start("train", workspace, **LATER)
        assert second.end_when(lambda: second.text, signal.SIGTERM) == 130
        assert "stopped while waiting for another process" in second.text
        several = server.start("train", workspace, WORLD_SIZE="2", RANK="0", **LATER)
        assert several.wait() == 2
        assert "error: another process trains this cell; run it again" in several.text
    finally:
        first.send(signal.SIGCONT)
    assert first.wait() == 0, first.text
