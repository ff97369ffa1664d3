"""The starting weights' content is part of a cell's identity."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from support import REPO, changed_params

from semimae.data.store import Prepared
from semimae.model import model_of
from semimae.model_file import open_model, save_model
from semimae.options.cell import Cell, cell_id
from semimae.options.params import Params
from semimae.types import UserError


def cell_with(weights: str | None) -> Cell:
    return changed_params(backbone__weights=weights).cell()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def identity(cell: Cell, folder: Path) -> str:
    folder.mkdir()
    cell.write(folder / "config.json")
    (folder / "split.json").write_text("{}")
    return cell_id(folder)


def refusal(cell: Cell, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        cell.with_weights_hash(root)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def beside(digits: Prepared, tmp_path: Path) -> Prepared:
    """The digits, with starting weights looked for in ``tmp_path``."""
    return dataclasses.replace(digits, root=tmp_path)


def test_the_hash_is_part_of_the_identity(tmp_path: Path) -> None:
    cell = cell_with("w.pth")
    first_hash = write(tmp_path / "w.pth", b"first")
    first = cell.with_weights_hash(tmp_path)
    assert first.weights_sha256 == first_hash
    assert first == cell.with_weights_hash(tmp_path)
    write(tmp_path / "w.pth", b"second")
    second = cell.with_weights_hash(tmp_path)
    ids = {identity(c, tmp_path / name) for name, c in {"a": first, "b": second, "c": cell}.items()}
    assert len(ids) == 3
    assert Cell.read(tmp_path / "a/config.json") == first
    assert first.as_asked == second.as_asked == cell  # what params.yaml asks for is the same


def test_an_absolute_path_does_not_start_at_the_root(tmp_path: Path) -> None:
    digest = write(tmp_path / "w.pth", b"first")
    cell = cell_with(str(tmp_path / "w.pth"))
    assert cell.with_weights_hash(Path("/nowhere")).weights_sha256 == digest


@pytest.mark.parametrize("weights", [None, "timm:augreg_in21k"])
def test_what_is_no_file_is_left_alone(weights: str | None, tmp_path: Path) -> None:
    cell = cell_with(None)
    backbone = cell.backbone.model_copy(update={"weights": weights})
    cell = cell.model_copy(update={"backbone": backbone})
    assert cell.with_weights_hash(tmp_path) == cell
    assert cell.weights_sha256 is None


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_that_cannot_be_read_is_the_users_mistake(is_folder: bool, tmp_path: Path) -> None:
    if is_folder:
        (tmp_path / "w.pth").mkdir()
    reason = "Is a directory" if is_folder else "No such file or directory"
    message = refusal(cell_with("w.pth"), tmp_path)
    assert message == f"backbone.weights=w.pth: {reason}: {tmp_path / 'w.pth'}"


def test_training_refuses_weights_that_changed(beside: Prepared, tmp_path: Path) -> None:
    cell = cell_with(None)
    save_model(model_of(cell, beside), cell, beside.info, tmp_path / "w.safetensors")
    cell = cell_with("w.safetensors").with_weights_hash(tmp_path)
    model = model_of(cell, beside)
    assert model.weight_report is not None
    save_model(model, cell, beside.info, tmp_path / "w.safetensors")  # same tensors, another file
    with pytest.raises(UserError, match=r"^backbone\.weights=w\.safetensors has changed;[^\n]*$"):
        model_of(cell, beside)
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(UserError, match=r"^backbone\.weights=w\.safetensors: No such file[^\n]*$"):
        model_of(cell, beside)


def test_a_trained_model_needs_its_starting_weights_no_more(
    beside: Prepared, tmp_path: Path
) -> None:
    fresh = cell_with(None)
    save_model(model_of(fresh, beside), fresh, beside.info, tmp_path / "w.safetensors")
    cell = cell_with("w.safetensors").with_weights_hash(tmp_path)
    save_model(model_of(cell, beside), cell, beside.info, tmp_path / "trained.safetensors")
    (tmp_path / "w.safetensors").unlink()
    trained = open_model(tmp_path / "trained.safetensors", branch=True)
    assert trained.info.cell == cell
    assert trained.model.mim is not None


def test_params_ask_for_no_hash() -> None:
    params = Params.read(REPO / "params.yaml")
    assert {cell.weights_sha256 for cell in (params.cell(), *params.grid())} == {None}
