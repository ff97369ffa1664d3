"""grid runs each distinct cell that has something to do, once."""

from pathlib import Path

import pytest

import pipeline.grid


def test_of_equal_cells_the_first_with_work_runs_all_of_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "a-0" is what an earlier version of dvc.yaml called "a-0-images": no stage has it any more.
    cells = {"a-0": "a", "a-0-images": "a", "b-0-images": "h", "headline": "h", "c-0-images": "c"}
    for name, content in cells.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "split.json"):
            (folder / file).write_text(content)
    (tmp_path / "runs" / "half-removed").mkdir()
    (tmp_path / "runs" / ".gitignore").touch()
    steps = ("train", "linear_probe")
    changed = {f"grid_{step}@{name}" for step in steps for name in ("a-0-images", "b-0-images")}
    changed |= {"train", "linear_probe", "fine_tune", "grid_linear_probe@c-0-images", "report"}
    monkeypatch.setattr(pipeline.grid, "_changed", lambda root: changed)
    assert pipeline.grid._pending_by_cell(tmp_path) == [
        ["train", "linear_probe", "fine_tune"],  # the headline, before its twin
        ["grid_train@a-0-images", "grid_linear_probe@a-0-images"],
        ["grid_linear_probe@c-0-images"],
    ]
