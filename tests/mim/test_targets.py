import numpy as np
import pytest
import torch

from semimae.mim.targets import TARGETS

PATCH = 4


def random_images(channels: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, channels, 8, 8)) * 3 + 1


def cut(images: np.ndarray) -> np.ndarray:
    """Patches ``[B, L, p * p * C]`` by slicing, channels last inside a patch."""
    rows = []
    for image in images:
        rows.append(
            [
                image[:, y : y + PATCH, x : x + PATCH].transpose(1, 2, 0).ravel()
                for y in range(0, 8, PATCH)
                for x in range(0, 8, PATCH)
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels(channels: int) -> None:
    images = random_images(channels)
    ours = TARGETS["pixels"](torch.from_numpy(images), PATCH)
    np.testing.assert_array_equal(ours.numpy(), cut(images))


@pytest.mark.parametrize("channels", [1, 3])
def test_norm_pixels(channels: int) -> None:
    images = random_images(channels)
    patches = cut(images)
    mean = patches.mean(axis=-1, keepdims=True)
    var = patches.var(axis=-1, ddof=1, keepdims=True)
    ours = TARGETS["norm_pixels"](torch.from_numpy(images), PATCH)
    np.testing.assert_allclose(ours.numpy(), (patches - mean) / np.sqrt(var + 1e-6), rtol=1e-9)


def test_norm_pixels_of_a_blank_patch_are_zero() -> None:
    assert not TARGETS["norm_pixels"](torch.full((1, 3, 8, 8), 0.3), PATCH).abs().gt(1e-3).any()


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_one_finite_row_per_patch(name: str) -> None:
    images = torch.from_numpy(random_images(3))
    images[0] = 0.0  # a blank image too
    target = TARGETS[name](images, PATCH)
    assert target.shape[:2] == (2, 4)
    assert target.isfinite().all()


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_belongs_to_its_own_image(name: str) -> None:
    images = torch.from_numpy(random_images(3))
    together = TARGETS[name](images, PATCH)
    torch.testing.assert_close(TARGETS[name](images[1:], PATCH), together[1:])
    assert not torch.allclose(together[0], together[1])
