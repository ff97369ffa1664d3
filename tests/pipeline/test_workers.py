"""A worker that takes cells one after another writes what the stages write one by one."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from stages import StageServer, Workspace, _content
from support import REPO

from pipeline import noted
from pipeline.noted import STAGES, mismatch, note, read_now, read_status, stages_of
from pipeline.workspace import HEADLINE
from semimae.options.grid import GridPoint

LATER = {"SEMIMAE_LOG_LATER": "1"}  # the store has tests of its own
CELLS = [
    "supervised-0.5-0.1-0-images-plain",
    "semi_mae-0.5-0.1-1-images-threaded",  # what it sets must not be there in the next one
    "semi_mae-0.75-None-0-images-plain",
    "mae_finetune-0.5-0.1-0-images-plain",
    HEADLINE,
]
WHEN = {"timing.json", "origin.json", "machine.json"}  # and where, not what


def make(root: Path) -> Workspace:
    workspace = Workspace(
        root,
        start__mae_steps=4,
        train__steps=8,
        train__save_every=2,
        train__threads=0,
        ablation__method=["supervised", "semi_mae", "mae_finetune"],
        ablation__mask_ratio=[0.5, 0.75],
        ablation__label_fraction=[0.1, None],
        ablation__variant=["plain", "threaded"],
        ablation__changes={"threaded": {"train": {"threads": 2, "precision": "bf16"}}},
        fine_tune__steps=4,
    )
    shutil.rmtree(workspace.root / "runs")
    return workspace


def files(root: Path) -> dict[str, bytes]:
    paths = [path for path in (root / "runs").rglob("*") if path.is_file()]
    return {p.relative_to(root).as_posix(): _content(p) for p in paths if p.name not in WHEN}


def split(server: StageServer, workspace: Workspace, name: str) -> None:
    command = f"split runs/{name}"
    if point := GridPoint.parse(name):
        options = zip(
            ("method", "mask-ratio", "label-fraction", "seed", "budget", "variant"),
            point,
            strict=True,
        )
        command += "".join(f" --{option} {value}" for option, value in options)
    server.finish(command, workspace, cell=workspace.root, **LATER)


@pytest.fixture(scope="module")
def one_by_one(server: StageServer, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make(tmp_path_factory.mktemp("stages"))
    server.finish("inputs", workspace, cell=workspace.root)
    for name in CELLS:
        split(server, workspace, name)
        for stage in stages_of(name)[1:]:
            command = stage.replace("_", "-")
            server.finish(command, workspace, cell=workspace.root / "runs" / name, **LATER)
    return workspace


@pytest.fixture
def fresh(one_by_one: Workspace, tmp_path: Path) -> Workspace:
    workspace = one_by_one.copy(tmp_path / "fresh")
    shutil.rmtree(workspace.root / "runs")
    return workspace


def test_a_worker_writes_the_files_of_the_stages_cell_for_cell(
    server: StageServer, one_by_one: Workspace, fresh: Workspace
) -> None:
    server.finish("cell " + " ".join(CELLS), fresh, cell=fresh.root, **LATER)
    expected = files(one_by_one.root)
    assert len(expected) > 8 * len(CELLS)
    assert files(fresh.root) == expected
    for name in CELLS:
        for stage in stages_of(name):
            assert mismatch(fresh.root, name, stage) is None


def test_a_killed_worker_that_runs_again_ends_with_the_same_bits_and_repeats_nothing(
    server: StageServer, one_by_one: Workspace, fresh: Workspace
) -> None:
    command = "cell " + " ".join(CELLS[:3])
    first = fresh.root / "runs" / CELLS[0] / "linear_probe.json"
    worker = server.start(command, fresh, cell=fresh.root, **LATER)
    assert worker.end_when(lambda: first.exists() and fresh.checkpoints(), signal.SIGKILL) < 0
    made = first.stat().st_mtime_ns
    server.finish(command, fresh, cell=fresh.root, **LATER)
    assert first.stat().st_mtime_ns == made
    assert read_status(fresh.root, CELLS[0])["title"] == "finished"
    expected = files(one_by_one.root)
    assert files(fresh.root).items() <= expected.items()


def test_what_does_not_fit_is_refused_in_one_line(server: StageServer, fresh: Workspace) -> None:
    stated = fresh.root / "inputs" / "train" / "supervised.json"
    content = json.loads(stated.read_text())
    content["code"]["semimae/engine/loop.py"] = "of yesterday"
    stated.write_text(json.dumps(content))
    worker = server.start(f"cell {CELLS[0]}", fresh, cell=fresh.root, **LATER)
    assert worker.wait() == 2
    assert worker.text == (
        "error: semimae/engine/loop.py is not what inputs/train/supervised.json states; it has "
        "changed since: start the grid again.\n"
    )
    worker = server.start("cell seed-1", fresh, cell=fresh.root, **LATER)
    assert worker.wait() == 2
    assert worker.text.startswith("error: runs/seed-1 is not a cell; allowed: headline, or METHOD-")


def test_notes_tell_what_has_changed_since(server: StageServer, fresh: Workspace) -> None:
    name = CELLS[0]
    split(server, fresh, name)
    assert mismatch(fresh.root, name, "split") == f"nothing is noted of stage split of {name}"
    note(fresh.root, name, "split", read_now(fresh.root, name, "split"), 1.0)
    assert mismatch(fresh.root, name, "split") is None
    config = fresh.root / "runs" / name / "config.json"
    for changed in (config, fresh.root / "prepared" / "dataset.json"):
        before = changed.read_bytes()
        changed.write_bytes(before + b" ")
        path = changed.relative_to(fresh.root)
        assert (
            mismatch(fresh.root, name, "split") == f"{path} has changed since split of {name} ran"
        )
        changed.write_bytes(before)
    config.unlink()
    assert mismatch(fresh.root, name, "split") is not None


def test_the_files_of_stages_are_those_of_dvc_yaml() -> None:
    stages = YAML(typ="safe").load(REPO / "dvc.yaml")["stages"]
    for name, files_of in STAGES.items():
        code = f"inputs/{files_of.code}".replace("{method}", "${method}")
        stated = stages[name]
        inside = name != "split"
        prefix = "" if inside else "runs/headline/"
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stated["outs"]]
        above = "../../" if inside else ""
        assert outs == [prefix + file for file in files_of.writes]
        assert set(stated["deps"]) == {*files_of.reads, f"{above}{code}", f"{above}prepared"}
    assert noted.stages_of("semi_mae-0.5-0.1-0-images-plain") == ("split", "train", "linear_probe")
