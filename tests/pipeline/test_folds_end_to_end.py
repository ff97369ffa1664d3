"""`make repro` with folds: the report chooses, and the setting that it recommends is used."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support import set_params
from test_end_to_end import SMALL, Project

pytestmark = pytest.mark.slow

FOLDS = {
    "refit": True,
    "data__folds": 2,
    "ablation__method": ["supervised", "semi_mae"],
    "ablation__mask_ratio": [0.75],
}


def test_from_folds_to_the_model_that_the_report_recommends(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    set_params(project.folder, **SMALL | FOLDS)
    said = project.run(sys.executable, "-m", "pipeline", "grid")
    assert "Cells to train or score: 2," in said  # the headline is one of them
    split = project.read("runs/headline/split.json")
    labeled = split["labeled"]
    assert isinstance(labeled, list)
    with np.load(project.folder / "runs/headline/predictions.npz") as found:
        assert found["val_row"].tolist() == labeled
    summary = project.read("reports/summary.json")
    assert summary["best"]["validation_images"] == len(labeled)  # type: ignore[index]
    page = (project.folder / "reports/report.md").read_text()
    assert f"{len(labeled)} labeled images, each held out once in 2 folds" in page
    assert f"It was trained on all {len(labeled)} labels, after 2 trainings" in page

    card = project.folder / "exported"
    project.run(
        *(sys.executable, "-m", "pipeline", "export", "runs/headline", str(card)),
        *("--format", "timm"),
    )
    text = (card / "MODEL_CARD.md").read_text()
    assert "each was held out once by 2 trainings before this one" in text
    assert "calibrated on labeled images held out in 2 folds (temperature" in text

    # What another choice costs: the model is there.
    weights = project.folder / "runs/supervised-0.75-0.1-0-images-plain/train/model.safetensors"
    set_params(project.folder, method="supervised")
    running, cached = project.dvc("repro")
    assert "train" in cached
    assert not any("train" in stage for stage in running - cached)
    headline = project.folder / "runs/headline/train/model.safetensors"
    assert headline.read_bytes() == weights.read_bytes()
    assert json.loads((headline.parent / "phases.json").read_text())[1]["fold"] == 1
