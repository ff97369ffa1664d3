"""Stage inputs notes what each stage of a cell depends on, no more and no less."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support import REPO
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.inputs import STAGES


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("pipeline", "semimae"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(project: Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["inputs"])
    assert result.exit_code == 0, result.output
    return {name: (project / "inputs" / f"{name}.json").read_text() for name in STAGES}


def changed(project: Path, before: dict[str, Any]) -> set[str]:
    after = written(project)
    return {name for name in STAGES if before[name] != after[name]}


def set_params(project: Path, section: str, **values: object) -> None:
    tree = YAML().load(project / "params.yaml")
    tree[section].update(values)
    YAML().dump(tree, project / "params.yaml")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("semimae/engine/loop.py", {"train", "linear_probe", "fine_tune"}),
        ("semimae/data/split.py", {"split", "train", "linear_probe", "fine_tune"}),
        ("semimae/evaluation/metrics.py", {"linear_probe", "fine_tune"}),
        ("semimae/options/params.py", {"split", "linear_probe", "fine_tune"}),
        ("pipeline/split.py", {"split"}),
        ("pipeline/progress.py", set()),
        ("pipeline/report.py", set()),
    ],
)
def test_an_edit_of_the_code_reaches_the_stages_that_run_it(
    project: Path, file: str, stages: set[str]
) -> None:
    before = written(project)
    with (project / file).open("a") as code:
        code.write("# an edit\n")
    assert changed(project, before) == stages


def test_a_new_or_renamed_module_is_noticed(project: Path) -> None:
    before = written(project)
    (project / "semimae/mim/new.py").touch()
    assert changed(project, before) == {"train", "linear_probe", "fine_tune"}
    before = written(project)
    (project / "semimae/mim/new.py").rename(project / "semimae/mim/newer.py")
    assert changed(project, before) == {"train", "linear_probe", "fine_tune"}


@pytest.mark.parametrize(
    ("section", "values", "stages"),
    [
        ("optim", {"lr": 0.123}, {"split"}),
        ("data", {"hflip": True}, {"split"}),
        ("linear_probe", {"knn_k": 3}, {"linear_probe"}),
        ("fine_tune", {"steps": 77}, {"fine_tune"}),
        ("ablation", {"changes": {"heavy": {"mim": {"lambda_mim": 9.0}}}}, {"split"}),
        ("ablation", {"seed": [5, 6]}, set()),
        ("tracking", {"experiment": "other"}, set()),
    ],
)
def test_an_edit_of_params_reaches_the_stages_that_read_it(
    project: Path, section: str, values: dict[str, object], stages: set[str]
) -> None:
    before = written(project)
    set_params(project, section, **values)
    assert changed(project, before) == stages


def test_a_comment_or_another_spelling_of_a_number_changes_nothing(project: Path) -> None:
    before = written(project)
    text = (project / "params.yaml").read_text()
    assert "lr: 2e-3" in text
    (project / "params.yaml").write_text("# a comment\n" + text.replace("lr: 2e-3", "lr: 0.002"))
    assert changed(project, before) == set()


def test_the_files_say_which_value_and_which_module(project: Path) -> None:
    split = json.loads(written(project)["split"])
    assert split["settings"]["optim"]["lr"] == 2e-3
    assert split["settings"]["ablation.changes"] == {}
    assert set(map(len, split["code"].values())) == {64}
    assert {"pipeline/split.py", "semimae/data/split.py"} <= split["code"].keys()
    assert not any("__pycache__" in name for name in split["code"])


def test_params_with_an_error_leave_the_files_alone(project: Path) -> None:
    before = written(project)
    set_params(project, "optim", lr="fast")
    assert CliRunner().invoke(app, ["inputs"]).exit_code != 0
    assert before == {n: (project / "inputs" / f"{n}.json").read_text() for n in STAGES}
