import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from semimae.data.crops import center_crop, random_box, resized_crop, scaled


@given(
    st.tuples(st.integers(2, 50), st.integers(2, 50)),
    st.floats(0.05, 1),
    st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
)
def test_a_random_box_lies_inside_the_image_and_has_the_area_it_should(
    size: tuple[int, int], min_scale: float, draws: tuple[float, ...]
) -> None:
    left, top, right, bottom = random_box(*size, min_scale, *draws)
    width, height = size
    slack = 1e-9 * max(size)
    assert -slack <= left < right <= width + slack
    assert -slack <= top < bottom <= height + slack
    share = (right - left) * (bottom - top) / (width * height)
    assert share <= 1 + 1e-9
    ratio = (right - left) / (bottom - top)
    if right - left < width - slack and bottom - top < height - slack:
        assert share >= min_scale - 1e-9
        assert 3 / 4 - 1e-9 <= ratio <= 4 / 3 + 1e-9


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.floats(0.01, 1),
    st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
)
def test_every_image_and_draw_gives_a_view(
    size: tuple[int, int], min_scale: float, draws: tuple[float, ...]
) -> None:
    pixels = np.full((*size, 3), 77, dtype=np.uint8)
    assert (resized_crop(pixels, 8, min_scale, *draws) == 77).all()
    assert (center_crop(pixels, 8) == 77).all()


@pytest.mark.parametrize(
    ("draws", "corner"),
    [((0.0, 0.5, 0.0, 0.0), "left top"), ((0.0, 0.5, 0.999999, 0.999999), "right bottom")],
)
def test_the_draws_move_the_crop_over_the_whole_image(
    draws: tuple[float, ...], corner: str
) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8, :8, 0] = 255
    pixels[8:, 8:, 2] = 255
    crop = resized_crop(pixels, 4, 0.25, *draws)
    channel = {"left top": 0, "right bottom": 2}[corner]
    assert (crop[channel] == 255).all()
    assert crop.int().sum() == crop[channel].int().sum()


def photograph(channels: int) -> NDArray[np.uint8]:
    return load_sample_images().images[0][..., :channels].copy()  # writable, for torch


BOXES = [(0, 0, 640, 427), (10, 20, 400, 300), (3, 5, 60, 45), (100, 0, 420, 427)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_scaling_is_that_of_pillow_and_torchvision(
    box: tuple[int, int, int, int], channels: int
) -> None:
    """A part is cut out first, as in torchvision: nothing outside of it shines in."""
    pixels, (left, top, right, bottom) = photograph(channels), box
    ours = scaled(pixels, 224, tuple(side + 0.3 for side in box))  # type: ignore[arg-type]
    image = Image.fromarray(pixels[top:bottom, left:right].squeeze())
    theirs = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)).reshape(224, 224, -1)
    difference = np.abs(ours.numpy().transpose(1, 2, 0).astype(int) - theirs)
    assert difference.max() <= 8  # at sharp edges: both round between the two directions
    assert (difference > 1).mean() < 0.001
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    size = [bottom - top, right - left, [224, 224]]
    theirs = vision.resized_crop(whole, top, left, *size, InterpolationMode.BICUBIC, True)
    assert torch.equal(ours, theirs)


def test_a_crop_of_everything_is_the_scaled_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    crop: Tensor = resized_crop(pixels, 6, 1.0, 0.0, 0.5, 0.3, 0.7)
    assert torch.equal(crop, scaled(pixels, 6, (0, 0, 12, 12)))
    same = resized_crop(pixels, 12, 1.0, 0.0, 0.5, 0.3, 0.7)
    np.testing.assert_array_equal(same.numpy(), pixels.transpose(2, 0, 1))


def test_the_center_crop_is_seven_eighths_of_the_shorter_side() -> None:
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[1:15, 9:23] = 255  # 14 = 16 * 0.875, around the center
    assert (center_crop(pixels, 14) == 255).all()
    assert center_crop(pixels, 14).shape == (3, 14, 14)


def test_the_image_is_not_changed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 1), dtype=np.uint8)
    pixels.setflags(write=False)  # as the pages of a mapped file
    before = pixels.copy()
    assert resized_crop(pixels, 8, 1.0, 0.0, 0.5, 0.3, 0.7).shape == (1, 8, 8)
    np.testing.assert_array_equal(pixels, before)
