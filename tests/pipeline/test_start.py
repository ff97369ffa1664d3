"""``start``: a params.yaml for a folder of images, with its reasons."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import REPO, copy_project, set_params
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.overlay import read
from semimae.evaluation.speed import seconds_per_step
from semimae.ingest.survey import survey
from semimae.options.params import Params
from semimae.types import UserError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose steps take as long as a test says."""
    folder = tmp_path / "project"
    copy_project(folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr("semimae.evaluation.speed.seconds_per_step", lambda cell, classes: 0.5)
    return folder


def images(root: Path, *, size: int = 80, gray: bool = False, unlabeled: int = 6) -> Path:
    draws = np.random.default_rng(0)
    names = [f"train/{label}/{i}.png" for label in ("cat", "dog") for i in range(12)]
    names += [f"unlabeled/{i}.png" for i in range(unlabeled)]
    for name in names:
        shape = (size, size + 10) if gray else (size, size + 10, 3)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)).save(root / name)
    return root


RECIPE = read(REPO / "recipes" / "own_images.yaml")


def minutes_for(folds: int) -> float:
    """How long the recipe takes with folds, two settings at a time."""
    steps = sum(cell.train.steps for cell in RECIPE.grid())
    return ((folds + 1) * 0.5 * steps + 10 * len(RECIPE.grid())) / 2 / 60


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["start", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_it_says_what_it_found_and_writes_its_reasons(project: Path, tmp_path: Path) -> None:
    said = run(images(tmp_path / "photos"), "--minutes", 30, "--force")
    assert "2 classes; images: 24 train, 6 unlabeled; 24 labeled for training, 12 in" in said
    assert "Next: make repro" in said
    params = Params.read(project / "params.yaml")
    assert (params.dataset, params.data.root) == ("imagefolder", str(tmp_path / "photos"))
    lines = (project / "params.yaml").read_text().splitlines()
    (steps,) = (line for line in lines if line.startswith("  steps: ") and "step takes" in line)
    assert "30 minutes; a step takes supervised 500 ms" in steps
    base = read(REPO / "recipes" / "own_images.yaml")
    assert (params.method, params.backbone) == (base.method, base.backbone)


def test_steps_follow_from_minutes_and_speed(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "photos")
    steps = []
    for minutes in (2 * minutes_for(5), 4 * minutes_for(5)):
        run(folder, "--minutes", minutes, "--force")
        params = Params.read(project / "params.yaml")
        steps.append(params.train.steps)
        steps_of_all = sum(c.train.steps * c.trainings for c in params.grid())  # baselines: own
        taken = (steps_of_all * 0.5 + 10 * len(params.grid())) / 2
        assert taken == pytest.approx(60 * minutes, rel=0.1)
    assert steps[1] > 1.9 * steps[0]


def test_few_labels_are_held_out_in_folds_if_there_is_time(project: Path, tmp_path: Path) -> None:
    """Of 24 labels, a test set takes 15% and validation 5%, which is one image."""
    folder = images(tmp_path / "photos")
    given = {minutes_for(3) - 1: 0, minutes_for(3) + 1: 3, minutes_for(5) + 1: 5}
    for minutes, folds in given.items():
        said = run(folder, "--minutes", minutes, "--force")
        params = Params.read(project / "params.yaml")
        assert (params.data.folds, params.refit) == (folds, folds > 0)
        assert ("1 validation image will not tell settings apart" in said) == (not folds)
        if folds:
            assert f"data.folds: {folds}  (1 validation image could not tell settings" in said
            assert params.train.steps >= RECIPE.train.steps


def test_each_gpu_trains_one_setting_at_a_time(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as many settings as there are GPUs take no longer than one."""
    folder, expected = images(tmp_path / "photos"), {}
    for devices in ("0", "0,1,2,3"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        run(folder, "--minutes", 30, "--force")
        params = Params.read(project / "params.yaml")
        taken = sum(c.train.steps * c.trainings * 0.5 + 10 for c in params.grid())
        expected[devices] = taken / len(devices.split(","))
    assert expected == {d: pytest.approx(1800, rel=0.1) for d in expected}


@pytest.mark.parametrize(
    ("size", "gray", "wanted"),
    [
        (32, False, (32, 4, 3)),
        (40, True, (32, 4, 1)),
        (80, True, (64, 8, 1)),
        (300, False, (64, 8, 3)),
    ],
)
def test_sizes_and_channels_follow_the_images(
    size: int, gray: bool, wanted: tuple[int, int, int], project: Path, tmp_path: Path
) -> None:
    run(images(tmp_path / "photos", size=size, gray=gray), "--force")
    params = Params.read(project / "params.yaml")
    assert (params.data.image_size, params.backbone.patch_size, params.data.channels) == wanted


def test_a_batch_is_not_larger_than_the_labels(project: Path, tmp_path: Path) -> None:
    run(images(tmp_path / "photos"), "--force")
    assert Params.read(project / "params.yaml").train.batch_size == 16  # of 24 labels


def test_a_table_of_images(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "photos")
    rows = [f"train/{c}/{i}.png,{c},train" for c in ("cat", "dog") for i in range(12)]
    (folder / "list.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    said = run(folder / "list.csv", "--force")
    params = Params.read(project / "params.yaml")
    assert (params.dataset, params.data.root) == ("csv", str(folder))
    assert params.data.manifest == "list.csv"
    assert "There are no unlabeled images." in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"missing is missing; give the folder that contains train/"),
        ("photos/train/cat/0.png", "0.png is neither a folder nor a .csv file"),
        ("photos/train", r"contains the classes directly: set data\.root to"),
    ],
)
def test_what_is_no_folder_of_images_is_refused(
    name: str, message: str, project: Path, tmp_path: Path
) -> None:
    images(tmp_path / "photos")
    before = (project / "params.yaml").read_text()
    with pytest.raises(UserError, match=message):
        run(tmp_path / name, "--force")
    assert (project / "params.yaml").read_text() == before


def test_own_work_is_not_overwritten(project: Path, tmp_path: Path) -> None:
    set_params(project, seed=77)
    with pytest.raises(UserError, match=r"uncommitted changes; commit them or add --force"):
        run(images(tmp_path / "photos"))


def test_speed_is_measured_on_the_cell_itself() -> None:
    params = read(REPO / "recipes" / "own_images.yaml")
    small = params.model_copy(
        update={"train": params.train.model_copy(update={"batch_size": 2, "steps": 900})}
    )
    assert seconds_per_step(small.cell("semi_mae"), 3, steps=2) > 0


def test_a_survey_opens_some_images_and_counts_the_unreadable(tmp_path: Path) -> None:
    folder = images(tmp_path, size=20, gray=True, unlabeled=0)
    (folder / "train/cat/0.png").write_bytes(b"no image")
    (folder / "train/notes.txt").write_text("hello")
    found = survey("imagefolder", read(REPO / "recipes" / "own_images.yaml").data, folder)
    assert (found.shorter_side, found.is_gray, found.num_unreadable) == (20, True, 1)
    assert (found.num_labeled, found.fewest, found.num_opened) == (24, 12, 24)
