"""A convolutional stem under the ViT, and the MIM branches on top of it."""

import pytest
import torch
from small_models import CHANNELS, CLASSES, IMAGE_SIZE, PATCHES, mae, simmim, vit
from support import changed_params
from torch.nn import functional

from semimae.backbones.conv_stem import ConvStem, visible
from semimae.model import SemiModel, build_model, timm_model
from semimae.options.mim import Masked
from semimae.patches import gather_patches, patchify
from semimae.random import uniform
from semimae.types import UserError


def build(branch: object = None, **changes: object) -> SemiModel:
    mim = None if branch is None else Masked.model_validate({"mask_ratio": 0.5, "branch": branch})
    return build_model(
        vit(stem="conv", embed_dim=32, pool="avg", **changes),
        mim,
        image_size=IMAGE_SIZE,
        channels=CHANNELS,
        num_classes=CLASSES,
        seed=0,
    ).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return uniform((count, CHANNELS, IMAGE_SIZE, IMAGE_SIZE), seed, "images") * 4 - 2


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_there_is_a_token_per_patch(patch_size: int, channels: int) -> None:
    stem = ConvStem(32, patch_size, channels, 8, 64)
    tokens = stem(torch.zeros(2, channels, 32, 32))
    assert tokens.shape == (2, (32 // patch_size) ** 2, 64)


def test_a_stage_standardizes_its_weights() -> None:
    """Against the definition: each output channel's weights have mean 0 and variance 1."""
    stem = ConvStem(8, 2, 3, 16, 32)
    convolution, norm = stem.stages[0], stem.stages[2]
    x = uniform((2, 3, 8, 8), 0, "x")
    weight = convolution.weight.flatten(1)
    weight = (weight - weight.mean(1, keepdim=True)) / weight.var(
        1, keepdim=True, correction=0
    ).sqrt()
    wanted = functional.conv2d(x, weight.view_as(convolution.weight), convolution.bias, padding=1)
    torch.testing.assert_close(convolution(x), wanted, rtol=1e-3, atol=1e-3)
    assert norm.num_groups == norm.num_channels // 8


def test_an_image_does_not_depend_on_the_others_in_its_batch() -> None:
    model, batch = build(), images(5)
    whole = model(batch)
    for row in range(5):
        torch.testing.assert_close(model(batch[row : row + 1])[0], whole[row], rtol=1e-4, atol=1e-5)


def test_visible_keeps_patches_and_blanks_the_others() -> None:
    batch, keep = images(2), torch.tensor([[0, 5], [3, 15]])
    kept = patchify(visible(batch, keep, 4), 4)
    for row in range(2):
        for patch in range(PATCHES):
            wanted = patchify(batch, 4)[row, patch] * (patch in keep[row].tolist())
            assert torch.equal(kept[row, patch], wanted)


@pytest.mark.parametrize("branch", [mae(), simmim()], ids=["mae", "simmim"])
def test_hidden_pixels_change_no_prediction(branch: object) -> None:
    """The stem overlaps patches, so hidden pixels could leak into the visible tokens."""
    model, batch = build(branch), images(3)
    noise = uniform((3, PATCHES), 0, "noise")
    assert model.mim is not None
    prediction, mask = model.mim.reconstruct(model.backbone, batch, noise)
    other = torch.where(visible(torch.ones_like(batch), mask.ids_keep, 4) > 0, batch, images(3, 1))
    assert not torch.equal(other, batch)
    again, _ = model.mim.reconstruct(model.backbone, other, noise)
    assert torch.equal(again, prediction)


def test_visible_tokens_see_visible_pixels_around_them() -> None:
    model, batch = build(), images(1)
    keep = torch.tensor([[5, 6]])  # neighbors
    before = model.backbone.tokenize(batch, keep)
    changed = batch.clone()
    changed[:, :, 4:8, 8:12] = 0  # patch 6
    after = model.backbone.tokenize(changed, keep)
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_without_a_mask_the_tokens_are_those_of_the_whole_image() -> None:
    model, batch = build(), images(2)
    every = torch.arange(PATCHES).expand(2, -1)
    whole = model.backbone.tokenize(batch)
    torch.testing.assert_close(model.backbone.tokenize(batch, every), gather_patches(whole, every))


@pytest.mark.parametrize("patch_size", [1, 3, 6, 12])
def test_patches_that_are_no_power_of_two_are_refused(patch_size: int) -> None:
    with pytest.raises(ValueError, match=f"patch_size={patch_size} is not a power of two"):
        changed_params(backbone__stem="conv", backbone__patch_size=patch_size)


def test_it_has_no_counterpart_in_timm() -> None:
    with pytest.raises(UserError, match="export the model as onnx or torch"):
        timm_model(vit(stem="conv"), IMAGE_SIZE, CHANNELS, CLASSES)


def test_layer_scale_starts_at_its_value() -> None:
    model = build(layer_scale=0.1)
    scales = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 2 * 2  # per block
    assert all(bool((scale == 0.1).all()) for scale in scales)
