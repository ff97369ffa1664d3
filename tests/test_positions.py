import math
from pathlib import Path

import numpy as np
import pytest

from semimae.positions import sincos_position_embedding


@pytest.mark.parametrize(("dim", "grid", "prefix"), [(48, 8, 1), (32, 4, 0), (192, 14, 1)])
def test_equals_the_published_reference(shared: Path, dim: int, grid: int, prefix: int) -> None:
    with np.load(shared / "golden" / "sincos_pos_embed.npz") as file:
        expected = file[f"d{dim}_g{grid}_c{prefix}"]
    ours = sincos_position_embedding(dim, grid).numpy()
    np.testing.assert_allclose(ours, expected[prefix:], rtol=1e-6, atol=1e-12)
    assert not expected[:prefix].any()  # the class token has no place: ours has no row for it


def test_equals_the_formula_one_number_at_a_time() -> None:
    dim, grid = 8, 3
    ours = sincos_position_embedding(dim, grid)
    for row in range(grid):
        for column in range(grid):
            expected = []
            for position in (column, row):
                angles = [position / 10000 ** (i / 2) for i in range(2)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert ours[row * grid + column].tolist() == pytest.approx(expected, abs=1e-12)


def test_every_place_has_its_own_embedding() -> None:
    assert len(sincos_position_embedding(16, 7).unique(dim=0)) == 49


def test_a_width_that_4_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dim=30 is not a multiple of 4"):
        sincos_position_embedding(30, 4)
