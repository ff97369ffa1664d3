"""Stage split resolves a cell; prune keeps what the params still ask for."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from data_helpers import SMALL, write_images
from safetensors.torch import save_file
from support import changed_params
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.source_code import short_hash, training_code
from pipeline.workspace import phases_folder, resume_folder
from semimae.ingest.prepare import prepare
from semimae.options.cell import Cell
from semimae.options.params import Params
from semimae.types import UserError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
    """Return a function that writes params.yaml beside prepared digits, with changes."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("SEMIMAE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write(**changes: object) -> Params:
        params = changed_params(**changes)
        Path("params.yaml").write_text(params.model_dump_json())
        return params

    prepare("digits", changed_params().data, tmp_path, tmp_path / "prepared")
    return write


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.mark.parametrize(("given", "fraction", "number"), [("None", None, 40), ("0.1", 0.1, None)])
def test_null_of_the_grid_arrives_as_none(
    project: Callable[..., Params], given: str, fraction: float | None, number: int | None
) -> None:
    params = project(num_labels=40, ablation__label_fraction=[None, 0.1])
    run("split", "runs/x", "--method", "fixmatch", "--label-fraction", given, "--seed", "1")
    cell = Cell.read(Path("runs/x/config.json"))
    assert (cell.label_fraction, cell.num_labels) == (fraction, number)
    assert cell in params.grid()


@pytest.mark.parametrize(
    ("method", "fraction", "include", "warned"),
    [
        ("fixmatch", 1.0, True, True),
        ("semi_mae", 1.0, True, True),
        ("mae", 1.0, True, True),
        ("supervised", 1.0, True, False),
        ("fixmatch", 0.5, True, False),
        ("fixmatch", 0.5, False, False),
    ],
)
def test_no_unlabeled_images_but_the_labeled_ones_is_warned_of(
    method: str,
    fraction: float,
    include: bool,
    warned: bool,
    project: Callable[..., Params],
    caplog: pytest.LogCaptureFixture,
) -> None:
    project(data__include_labeled=include)
    run("split", "runs/x", "--method", method, "--label-fraction", str(fraction))
    said = [text for text in caplog.messages if "there are none apart from the" in text]
    assert len(said) == warned
    assert all(f"method={method} learns from unlabeled images" in text for text in said)


def test_missing_weights_are_found_by_prepare_and_split(project: Callable[..., Params]) -> None:
    project(backbone__weights="w.safetensors")
    for command in (("prepare",), ("split", "runs/x")):
        with pytest.raises(UserError, match=r"backbone\.weights=w\.safetensors"):
            run(*command)


def test_a_data_folder_that_is_gone_is_said_by_prepare_and_split(
    project: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    write_images(root, SMALL)
    monkeypatch.setenv("SEMIMAE_DATA", str(root))
    project(dataset="imagefolder", data__pack_max_side=0, data__image_size=8)
    run("prepare")
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"there is no folder {root}"):
        run("prepare")
    with pytest.raises(UserError, match=f"the data folder {root} is gone"):
        run("split", "runs/x")


def test_prepare_prints_its_summary(
    project: Callable[..., Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    write_images(root, [*SMALL, "unlabeled/1.png"])
    (root / "train/a/notes.txt").write_text("no image")
    monkeypatch.setenv("SEMIMAE_DATA", str(root))
    project(dataset="imagefolder", data__image_size=8)
    said = run("prepare")
    assert said.startswith("imagefolder: 13 images, 2 classes\n")
    assert "1  not an image (.txt): train/a/notes.txt" in said
    assert "! 2 classes have fewer than 5 labeled training images:" in said


def test_starting_weights_are_hashed_and_such_runs_are_kept(
    project: Callable[..., Params],
) -> None:
    params = project(backbone__weights="w.safetensors", ablation__label_fraction=[None])
    asked = "runs/fixmatch-0.5-None-0-images-plain"
    save_file({}, "w.safetensors")
    run("split", asked, "--method", "fixmatch", "--label-fraction", "None", "--seed", "0")
    run("split", "runs/other", "--method", "fixmatch", "--label-fraction", "0.5", "--seed", "0")
    cell = Cell.read(Path(asked, "config.json"))
    assert cell.weights_sha256 == hashlib.sha256(Path("w.safetensors").read_bytes()).hexdigest()
    assert cell.as_asked in params.grid()
    assert run("prune", "--yes").splitlines() == ["runs/other", "1 folders removed."]
    assert [path.name for path in Path("runs").iterdir()] == [Path(asked).name]


def test_a_stopped_run_that_is_asked_for_keeps_its_checkpoints(
    project: Callable[..., Params],
) -> None:
    project(ablation__label_fraction=[0.5], ablation__method=["fixmatch"], ablation__seed=[0])
    asked = "runs/fixmatch-0.5-0.5-0-images-plain"
    run("split", asked, "--method", "fixmatch", "--label-fraction", "0.5", "--seed", "0")
    code = short_hash(training_code([Cell.read(Path(asked, "config.json")).options]))
    resume, phases = resume_folder(Path(), Path(asked), "train", code), phases_folder(Path(), code)
    for folder in (resume, phases):
        for path in (folder, folder.with_name(f"{folder.name[:-1]}_")):  # of this and of other code
            path.mkdir(parents=True)
    other = Path(".semimae/resume") / f"0123456789ab-train-{code}"
    other.mkdir()
    *said, total = run("prune", "--yes").splitlines()
    assert total == "3 folders removed."
    assert str(other) in said
    assert resume.is_dir()
    assert phases.is_dir()
    assert all(path.endswith("_") for path in said if path != str(other))
