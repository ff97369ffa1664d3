"""sync-mlflow publishes each distinct run once: of twins the headline, else the grid's first."""

import shutil
from pathlib import Path

import pytest
from support import REPO

import pipeline.sync


def test_of_equal_cells_the_headline_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_grid = "supervised-0.5-0.04-0-images-plain"  # "other" may be of an earlier grid
    cells = {"a": "same", "headline": "same", "z": "same", "other": "2", of_grid: "2"}
    shutil.copy(REPO / "params.yaml", tmp_path)
    for name, content in cells.items():
        folder = tmp_path / "runs" / name
        (folder / "train").mkdir(parents=True)
        for file in ("config.json", "split.json"):
            (folder / file).write_text(content)
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "to-be-split-again" / "train").mkdir(parents=True)
    seen: list[str] = []

    def publish(folder: Path, root: Path) -> bool:
        assert root == tmp_path
        seen.append(folder.name)
        return True

    monkeypatch.setattr(pipeline.sync, "publish", publish)
    assert pipeline.sync.sync(tmp_path) == 2
    assert sorted(seen) == ["headline", of_grid]
