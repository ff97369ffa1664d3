import numpy as np
import pytest
import torch

from semimae.mim.targets import TARGETS

PATCH = 4


def random_images(channels: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, channels, 8, 8)) * 3 + 1


def target(name: str, images: np.ndarray) -> np.ndarray:
    return TARGETS[name](torch.from_numpy(images), PATCH).numpy()


def cut(images: np.ndarray) -> np.ndarray:
    """Patches ``[B, L, p * p * C]`` by slicing, channels last inside a patch."""
    corners = [(y, x) for y in range(0, 8, PATCH) for x in range(0, 8, PATCH)]
    return np.array(
        [
            [image[:, y : y + PATCH, x : x + PATCH].transpose(1, 2, 0).ravel() for y, x in corners]
            for image in images
        ]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels(channels: int) -> None:
    images = random_images(channels)
    np.testing.assert_array_equal(target("pixels", images), cut(images))


@pytest.mark.parametrize("channels", [1, 3])
def test_norm_pixels(channels: int) -> None:
    images = random_images(channels)
    patches = cut(images)
    mean = patches.mean(axis=-1, keepdims=True)
    var = patches.var(axis=-1, ddof=1, keepdims=True)
    expected = (patches - mean) / np.sqrt(var + 1e-6)
    np.testing.assert_allclose(target("norm_pixels", images), expected, rtol=1e-9)


def test_norm_pixels_of_a_blank_patch_are_zero() -> None:
    assert np.abs(target("norm_pixels", np.full((1, 3, 8, 8), 0.3))).max() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_one_finite_row_per_patch(name: str, channels: int) -> None:
    images = random_images(channels)
    images[0] = 0.0  # a blank image too
    made = target(name, images)
    assert made.shape[:2] == (2, 4)
    assert np.isfinite(made).all()


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_belongs_to_its_own_image(name: str) -> None:
    images = random_images(3)
    together = target(name, images)
    np.testing.assert_allclose(target(name, images[1:]), together[1:], rtol=1e-9, atol=1e-12)
    assert not np.allclose(together[0], together[1])
