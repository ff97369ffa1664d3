"""A model's file alone is enough to use it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import drawn_model
from safetensors.torch import load_file, save_file

from semimae.data.crops import center_crop
from semimae.data.store import Prepared
from semimae.engine.infer import infer
from semimae.inference.classifier import Classifier
from semimae.model_file import open_model, save_model
from semimae.options.cell import Cell
from semimae.types import UserError

MakeCell = Callable[..., Cell]


@pytest.fixture
def run(small_cell: MakeCell, digits: Prepared, tmp_path: Path) -> Path:
    """A run's folder with weights and nothing else."""
    cell = small_cell()
    (tmp_path / "run" / "train").mkdir(parents=True)
    path = tmp_path / "run" / "train" / "model.safetensors"
    save_model(drawn_model(cell, digits), cell, digits.info, path)
    return tmp_path / "run"


def test_a_copy_of_the_file_is_the_same_model(
    run: Path, small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(run / "train" / "model.safetensors", copy)
    for path in (run, run / "train", copy):
        trained = open_model(path)
        assert trained.model.mim is None
        assert trained.info.cell == small_cell()
        assert trained.info.dataset == digits.info
    expected = infer(drawn_model(small_cell(), digits), small_cell(), digits, np.arange(9))
    assert digits.images is not None
    logits = Classifier(trained)(torch.from_numpy(digits.images[:9].copy()))
    torch.testing.assert_close(logits.double().softmax(dim=1), expected.probabilities)


def test_a_file_of_a_packed_image_becomes_the_pixels_that_were_scored(
    run: Path, digits: Prepared, tmp_path: Path
) -> None:
    assert digits.images is not None
    trained = open_model(run)
    for row in (0, 700):
        path = tmp_path / f"{row}.png"
        Image.fromarray(digits.images[row][..., 0]).convert("RGB").save(path)
        with Image.open(path) as image:
            np.testing.assert_array_equal(trained.pixels(image), digits.images[row])


def test_of_unpacked_images_the_center_counts(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    """0.875 of the shorter side, the field's custom: a frame around it is not seen."""
    cell, path = small_cell(), tmp_path / "m.safetensors"
    info = digits.info.model_copy(update={"packed": False})
    save_model(drawn_model(cell, digits), cell, info, path)
    pixels = np.full((64, 96), 255, np.uint8)
    pixels[4:60, 20:76] = 7  # the central 56 of 64, in the middle of 96
    seen = open_model(path).pixels(Image.fromarray(pixels))
    assert (seen[2:-2, 2:-2] == 7).all()
    assert seen.max() < 60  # a bicubic edge; of the whole square half an outer pixel is white


def test_of_images_that_were_scored_from_smaller_copies_such_a_copy_counts(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    """Two scalings in a row are not one: prediction has to repeat both."""
    cell, path = small_cell(), tmp_path / "m.safetensors"
    size = digits.info.image_size
    info = digits.info.model_copy(update={"packed": False, "cache_size": 2 * size})
    save_model(drawn_model(cell, digits), cell, info, path)
    image = Image.effect_noise((20 * size, 10 * size), 200)
    small = np.asarray(image.resize((4 * size, 2 * size), Image.Resampling.BICUBIC))
    seen, trained = center_crop(small[..., None], size), open_model(path)
    np.testing.assert_array_equal(trained.pixels(image), seen.permute(1, 2, 0))
    whole = trained._replace(
        info=trained.info.model_copy(
            update={"dataset": digits.info.model_copy(update={"packed": False})}
        )
    )
    assert (whole.pixels(image) != trained.pixels(image)).any()


def test_what_the_data_section_states_wins_over_what_was_measured(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    cell, path = small_cell(data__mean=[0.25], data__std=[0.5]), tmp_path / "m.safetensors"
    save_model(drawn_model(cell, digits), cell, digits.info, path)
    classifier = Classifier(open_model(path))
    images = torch.tensor([[0, 51, 255]], dtype=torch.uint8).reshape(1, 1, 3, 1)
    expected = torch.tensor([-0.5, -0.1, 1.5]).reshape(1, 1, 1, 3)
    torch.testing.assert_close(classifier.normalize(images), expected)


def test_the_file_holds_its_temperature(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    cell, path = small_cell(), tmp_path / "m.safetensors"
    save_model(drawn_model(cell, digits), cell, digits.info, path, 1.75)
    assert open_model(path).info.temperature == 1.75
    save_model(drawn_model(cell, digits), cell, digits.info, path)
    assert open_model(path).info.temperature is None


@pytest.mark.parametrize("damage", ["no file", "no model", "truncated", "other tool", "version"])
def test_what_is_no_model_is_refused_in_one_line(damage: str, run: Path, tmp_path: Path) -> None:
    path = run / "train" / "model.safetensors"
    if damage == "no file":
        path.unlink()
        said = "holds no trained model, or not yet; give a run's folder"
    elif damage == "no model":
        path.write_bytes(b"hello")
        said = "cannot be read"
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
        said = "cannot be read"
    elif damage == "other tool":
        save_file(load_file(path), path)
        said = "does not say what it is"
    else:
        save_file(load_file(path), path, metadata={"semimae": '{"format": 9}'})
        said = "is of another version"
    with pytest.raises(UserError, match=said) as error:
        open_model(run)
    assert "\n" not in str(error.value)
