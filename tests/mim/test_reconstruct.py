"""Pictures of what a branch predicts."""

from collections.abc import Callable

import numpy as np
import pytest
from small_models import mae, simmim, timm_model, vit

from semimae.data.store import Prepared
from semimae.evaluation.reconstruct import reconstruct
from semimae.model import model_of
from semimae.options.cell import Cell
from semimae.options.mim import MIMConfig

SWIN = timm_model(
    model="swin_tiny_patch4_window7_224",
    patch_size=1,
    depth=[1, 1],
    num_heads=[1, 2],
    window_size=4,
)


def cell_of(make: Callable[..., Cell], mim: MIMConfig, swin: bool = False) -> Cell:
    backbone = SWIN if swin else vit(patch_size=2)
    cell = make()
    assert cell.mim is not None
    masked = cell.mim.model_copy(update={"branch": mim})
    options = cell.options.model_copy(update={"mim": masked})
    return cell.model_copy(update={"options": options, "backbone": backbone})


@pytest.mark.parametrize("swin", [False, True], ids=["vit", "swin"])
@pytest.mark.parametrize("branch", [mae, simmim])
@pytest.mark.parametrize("target", ["pixels", "norm_pixels"])
def test_hidden_patches_are_predicted(
    branch: Callable[..., MIMConfig],
    target: str,
    swin: bool,
    small_cell: Callable[..., Cell],
    digits: Prepared,
) -> None:
    if swin and branch is mae:
        pytest.skip("refused")
    cell = cell_of(small_cell, branch(target=target), swin)
    pictures = reconstruct(model_of(cell, digits), cell, digits, np.arange(4))
    assert pictures is not None
    assert digits.images is not None
    original, masked, reconstructed = pictures
    np.testing.assert_allclose(original, digits.images[:4], atol=1)
    assert original.shape == masked.shape == reconstructed.shape == (4, 8, 8, 1)
    same = (original == reconstructed).reshape(4, 4, 2, 4, 2).all(axis=(2, 4))
    hidden = ~(original == masked).reshape(4, 4, 2, 4, 2).all(axis=(2, 4))
    assert (hidden.sum(axis=(1, 2)) <= 12).all()
    assert (same | hidden).all()  # visible patches are the image's own
    assert not same.all()


@pytest.mark.parametrize("branch", [mae, simmim])
@pytest.mark.parametrize("target", ["hog", "teacher_features"])
def test_other_targets_have_no_pictures(
    branch: Callable[..., MIMConfig],
    target: str,
    small_cell: Callable[..., Cell],
    digits: Prepared,
) -> None:
    cell = cell_of(small_cell, branch(target=target))
    assert reconstruct(model_of(cell, digits), cell, digits, np.arange(4)) is None
