"""Stages that are killed, at random times and at every change of a file, end with the same bits."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from stages import StageServer, Workspace

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SEMIMAE_KILLS", "25"))  # `make soak` does more
SEED = os.environ.get("SEMIMAE_KILLS_SEED", "0")
LATER = {"SEMIMAE_LOG_LATER": "1"}  # the store has tests of its own
SHARES = {"train": 0.4, "train in phases": 0.2, "fine-tune": 0.24, "linear-probe": 0.16}


@pytest.fixture(scope="module")
def trained(server: StageServer, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(
        tmp_path_factory.mktemp("trained"),
        train__steps=24,
        train__save_every=3,
        train__eval_every=8,
        fine_tune__steps=12,
    )
    server.finish("train", workspace, **LATER)
    return workspace


@pytest.fixture(scope="module")
def in_phases(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(
        tmp_path_factory.mktemp("phases"),
        method="mae_finetune",
        start__mae_steps=3,
        train__steps=4,
        train__save_every=2,
        train__eval_every=2,
        fine_tune__steps=3,
    )


@pytest.mark.parametrize("name", SHARES)
def test_a_stage_killed_at_random_times_ends_with_the_same_bits(
    name: str, server: StageServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    template = request.getfixturevalue("in_phases" if "phases" in name else "trained")
    command, dice = name.split()[0], random.Random(f"{SEED} {name}")
    whole = template.copy(tmp_path / "whole")
    began = time.monotonic()
    server.finish(command, whole, **LATER)
    seconds = time.monotonic() - began  # within which kills are likely to hit something
    wanted, killed, continued, rounds = round(KILLS * SHARES[name]), [], 0, 0

    def unlucky() -> bool:
        """So far no kill has left a checkpoint: then one follows as soon as there is one."""
        return not continued and command != "linear-probe"

    while len(killed) < wanted or unlucky():
        rounds += 1
        workspace = template.copy(tmp_path / f"round-{rounds}")
        code = -1
        while code:
            continued += bool(workspace.checkpoints())
            stage = server.start(command, workspace, **LATER)
            if len(killed) < wanted:
                delay = dice.uniform(0, seconds)
                code = stage.end_after(delay, signal.SIGKILL)
            elif unlucky():
                delay = float("nan")
                code = stage.end_when(workspace.checkpoints, signal.SIGKILL)
            else:
                code = stage.wait()
            assert code in (0, -signal.SIGKILL), stage.text
            assert "warning" not in stage.text
            if code:
                killed.append(f"{delay:.3f}")
        assert workspace.result(command) == whole.result(command), f"killed after {killed} s"
        assert not workspace.leftovers()
    print(f"\n{name}: killed after {', '.join(killed)} s; {continued} continued a checkpoint")
    assert continued or command == "linear-probe"


@pytest.mark.parametrize("command", ["train", "fine-tune", "linear-probe"])
def test_a_stage_killed_before_any_change_of_a_file_ends_with_the_same_bits(
    command: str, server: StageServer, in_phases: Workspace, tmp_path: Path
) -> None:
    """Also between a file's writing and its renaming, and between the files of a checkpoint."""
    workspace = in_phases.copy(tmp_path)
    server.finish("train", workspace, **LATER)
    server.finish(command, workspace, **LATER)
    expected, number, code = workspace.result(command), 0, -1
    while code:
        number += 1
        stage = server.start(command, workspace, die_at=number, **LATER)
        code = stage.wait()
        assert code in (0, -signal.SIGKILL), stage.text
        text = server.finish(command, workspace, **LATER) if code else stage.text
        assert "warning" not in text, number
        assert workspace.result(command) == expected, number
        assert not workspace.leftovers(), number
    print(f"\n{command}: killed before each of {number - 1} changes")
    assert number > 5
