"""Two clones that share a remote, as docs/scaling.md says."""

import subprocess
from pathlib import Path

import pytest
from test_end_to_end import Project

pytestmark = pytest.mark.slow

CELLS = "grid_train@semi_mae-*"


def trained(project: Project, cells: str, *options: str) -> set[str]:
    """Reproduce cells; return those that were trained, not restored."""
    running, cached = project.dvc("repro", *options, "--glob", cells)
    return {stage for stage in running - cached if stage.startswith("grid_train@")}


def test_a_cell_that_one_clone_has_trained_is_not_trained_by_the_other(tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    one = Project(tmp_path / "one")
    one.dvc("remote", "add", "-d", "store", str(remote))
    one.run("git", "commit", "-qam", "a remote")
    subprocess.run(["git", "clone", "-q", one.folder, tmp_path / "two"], check=True)
    two: Project = object.__new__(Project)
    two.folder = tmp_path / "two"

    folders = ("semi_mae-0.5-0.1-0-images-plain", "semi_mae-0.75-0.1-0-images-plain")
    half, other = (f"grid_train@{folder}" for folder in folders)
    assert trained(one, half) == {half}
    one.dvc("push", "--run-cache")
    two.dvc("pull", "--run-cache", "--allow-missing")
    assert trained(two, CELLS, "--pull") == {other}
    two.dvc("push", "--run-cache")
    one.dvc("pull", "--run-cache", "--allow-missing")
    assert trained(one, CELLS, "--pull") == set()
    for folder in folders:
        weights = f"runs/{folder}/train/model.safetensors"
        assert (one.folder / weights).read_bytes() == (two.folder / weights).read_bytes()
