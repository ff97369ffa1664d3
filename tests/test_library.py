"""The public names: what a script or a notebook needs, without DVC and MLflow."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import REPO, changed_params

import semimae
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.options.cell import Cell
from semimae.types import UserError


@pytest.mark.parametrize("name", semimae.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(semimae, name) is not None
    assert name in dir(semimae)


def test_other_names_are_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'semimae' has no attribute 'train'"):
        semimae.train  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, semimae; print({'torch', 'pydantic', 'numpy'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "set()")


def test_the_example_trains_a_model_that_has_learned(tmp_path: Path) -> None:
    example = REPO / "examples" / "one_process.py"
    run = subprocess.run(
        [sys.executable, example, tmp_path], cwd=REPO, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    labels, _, top1 = run.stdout.partition(" labels, test top-1 ")
    assert labels == "54"
    assert float(top1.split()[0]) > 60  # chance is 10
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_page_shows_the_example() -> None:
    page = (REPO / "docs/how-to/notebook.md").read_text()
    _, _, code = (REPO / "examples/one_process.py").read_text().partition("params = ")
    lines = [line for line in code.splitlines() if "project" not in line and line]
    assert all(line in page for line in lines)


def test_fit_continues_after_an_interruption_and_opens_what_is_finished(
    small_cell: Callable[..., Cell], digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell, rhythm = small_cell("mae_finetune"), changed_params().train
    rows: list[float] = []

    def stop(kind: str, row: dict[str, float]) -> None:
        rows.append(row["step"])
        if row["step"] >= 6:
            raise KeyboardInterrupt

    whole = semimae.fit(cell, digits, digits_split, rhythm, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        semimae.fit(cell, digits, digits_split, rhythm, tmp_path / "run", on_row=stop)
    seen: list[float] = []
    again = semimae.fit(
        cell,
        digits,
        digits_split,
        rhythm,
        tmp_path / "run",
        on_row=lambda kind, row: seen.append(row["step"]),
    )
    assert max(seen) == cell.train.steps
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name

    def refuse(kind: str, row: dict[str, float]) -> None:
        raise AssertionError("a finished run is not trained again")

    semimae.fit(cell, digits, digits_split, rhythm, tmp_path / "run", on_row=refuse)
    with pytest.raises(UserError, match="was trained with other settings; choose another folder"):
        semimae.fit(small_cell(), digits, digits_split, rhythm, tmp_path / "run")
