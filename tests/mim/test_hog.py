"""Against scikit-image, which counts in single precision."""

import numpy as np
import pytest
import torch
from skimage.feature import hog as reference

from semimae.mim.hog import hog, hog_of_patches


def images(channels: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, channels, size, size))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cell", [2, 3, 4, 8])
@pytest.mark.parametrize("orientations", [9, 6])
def test_cells(channels: int, cell: int, orientations: int) -> None:
    x = images(channels, 24)
    ours = hog(torch.from_numpy(x), cell, orientations).numpy()
    assert ours.shape == (2, channels * orientations, 24 // cell, 24 // cell)
    for n in range(2):
        for c in range(channels):
            theirs = reference(
                x[n, c],
                orientations=orientations,
                pixels_per_cell=(cell, cell),
                cells_per_block=(1, 1),
                block_norm="L2",
                feature_vector=False,
            )[:, :, 0, 0]  # [rows, columns, orientations]
            mine = ours[n, c * orientations : (c + 1) * orientations]
            np.testing.assert_allclose(mine.transpose(1, 2, 0), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("patch_size", "cell"), [(8, 4), (4, 2), (3, 3)])
def test_a_patch_has_its_own_cells(patch_size: int, cell: int) -> None:
    x = torch.from_numpy(images(3, 24))
    cells, patches = hog(x, cell), hog_of_patches(x, patch_size)
    per_side, grid = patch_size // cell, 24 // patch_size
    assert patches.shape == (2, grid**2, per_side**2 * 27)
    row, column = 1, 2
    corner = cells[0, :, row * per_side :, column * per_side :][:, :per_side, :per_side]
    expected = corner.permute(1, 2, 0).flatten()
    assert torch.equal(patches[0, row * grid + column], expected)


def test_a_blank_image_has_no_direction() -> None:
    assert not hog(torch.full((1, 1, 8, 8), 0.7), 4).any()


def test_contrast_does_not_matter() -> None:
    x = torch.from_numpy(images(1, 16))
    torch.testing.assert_close(hog(5 * x + 2, 4), hog(x, 4))
