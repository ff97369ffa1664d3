"""``doctor``: what a bug report needs, and what needs fixing."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from support import copy_project
from typer.testing import CliRunner

from pipeline import doctor
from pipeline.__main__ import app


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    copy_project(folder)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *who, *command], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    for variable in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "SEMIMAE_DATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e9))
    return folder


def run() -> Result:
    result = CliRunner().invoke(app, ["doctor"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def test_a_fresh_clone_needs_no_fixing(project: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "Nothing needs fixing." in result.output
    facts = dict(line.split(":", 1) for line in result.output.splitlines() if ":" in line)
    assert facts["torch"].strip() == version("torch")
    assert facts["git"].strip().endswith(", 0 changed files")
    assert facts["disk"].strip() == "9 GB free here"
    assert not (project / "mlflow.db").exists()


def test_each_trouble_is_named_and_hides_no_other(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "params.yaml").write_text("method: fixmatchh\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    monkeypatch.setenv("SEMIMAE_DATA", "/not/there")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr(doctor, "_PACKAGES", ("torch", "not-a-package"))
    result = run()
    assert result.exit_code == 1
    fixes = result.output.partition("To fix:\n")[2]
    named = [line.split(":")[0] for line in fixes.splitlines()]
    assert named == ["- not-a-package", "- settings", "- mlflow", "- disk"]
    assert "write http://localhost:5000" in fixes
    assert "1 changed files" in result.output


def test_missing_images_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (project / "params.yaml").read_text()
    assert text.count("dataset: digits") == 1
    (project / "params.yaml").write_text(text.replace("dataset: digits", "dataset: imagefolder"))
    monkeypatch.setenv("SEMIMAE_DATA", "/not/there")
    result = run()
    assert result.exit_code == 1
    assert "- images: set SEMIMAE_DATA" in result.output
