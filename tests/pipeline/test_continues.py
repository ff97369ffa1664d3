"""A stopped run continues after a change of what decides no weight."""

import json
import signal
from pathlib import Path

import pytest
from stages import StageServer, Workspace
from support import set_params

pytestmark = pytest.mark.slow

LATER = {"SEMIMAE_LOG_LATER": "1"}  # the store has tests of its own


def test_a_stopped_run_continues_at_its_next_step(server: StageServer, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    workspace = Workspace(
        tmp_path / "run",
        train__steps=60,
        train__save_every=7,
        train__log_every=5,
        train__eval_every=15,
    )
    whole = workspace.copy(tmp_path / "whole")
    server.finish("train", whole, **LATER)
    stage = server.start("train", workspace, **LATER)
    workspace.wait_for_checkpoint()
    stage.send(signal.SIGTERM)
    assert stage.wait() == 130, stage.text
    stopped = int(workspace.checkpoints()[-1].stem.removeprefix("step-"))

    set_params(
        workspace.root,
        data__workers=1,
        train__save_every=50,
        train__log_every=1,
        train__eval_every=60,
        train__gradient_every=0,
        train__max_bad_steps=3,
    )
    server.finish("train", workspace, **LATER)

    weights = "model.safetensors"
    assert workspace.result()[weights] == whole.result()[weights]
    steps = [row["step"] for row in json.loads((workspace.cell / "train/history.json").read_text())]
    before = [step for step in steps if step <= stopped]
    assert before == list(range(5, stopped + 1, 5))  # logged by the first attempt, and kept
    assert steps[len(before) :] == list(range(stopped + 1, 61))
