import pytest
import torch
from small_models import BACKBONES, build, draw, draw_noise, scramble, simmim, vit
from torch import Tensor

from semimae.model import SemiModel
from semimae.patches import patchify


def changed(images: Tensor, patches: Tensor, patch_size: int = 4) -> Tensor:
    """Add 5 to the pixels of some patches ``[B, L]``."""
    side = images.shape[-1] // patch_size
    where = patches.reshape(-1, 1, side, side).float()
    return images + 5 * torch.nn.functional.interpolate(where, scale_factor=patch_size)


def model_of(name: str) -> SemiModel:
    model = build(BACKBONES[name], simmim(target="pixels"))
    scramble(model)
    return model.double()


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_the_prediction_sees_visible_pixels_only(name: str) -> None:
    model = model_of(name)
    assert model.mim is not None
    images, noise = draw().double(), draw_noise()
    prediction, mask = model.mim.reconstruct(model.backbone, images, noise)
    hidden = torch.zeros(3, 16, dtype=torch.bool).scatter(1, mask.ids_hide, True)
    blind, _ = model.mim.reconstruct(model.backbone, changed(images, hidden), noise)
    assert torch.equal(blind, prediction)
    seeing, _ = model.mim.reconstruct(model.backbone, changed(images, ~hidden), noise)
    assert not torch.allclose(seeing, prediction)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_a_prediction_depends_on_where_its_patch_is(name: str) -> None:
    model = model_of(name)
    assert model.mim is not None
    prediction, _ = model.mim.reconstruct(model.backbone, draw().double(), draw_noise())
    assert len(prediction[0].unique(dim=0)) == 8


@torch.no_grad()
def test_tokens_are_replaced_and_keep_their_positions() -> None:
    model = build(vit(), simmim())
    backbone = model.backbone
    token = torch.full((1, 1, 16), 7.0)
    ids = torch.tensor([[0, 5], [3, 4]])
    tokens = backbone.tokenize(draw(batch=2))
    hidden = backbone.hide(tokens, ids, token)
    position = backbone.vit.pos_embed[0, 1:]  # type: ignore[attr-defined]
    for image in range(2):
        for patch in range(16):
            replaced = patch in ids[image].tolist()
            expected = 7.0 + position[patch] if replaced else tokens[image, patch]
            assert torch.equal(hidden[image, patch], expected)


@torch.no_grad()
def test_a_patch_of_swin_is_all_tokens_that_are_merged_into_it() -> None:
    backbone = build(BACKBONES["swin"], simmim()).backbone
    assert (backbone.patch_size, backbone.num_patches, backbone.token_dim) == (4, 16, 16)
    token = torch.full((1, 1, 16), 7.0)
    hidden = backbone.hide(torch.zeros(2, 256, 16), torch.tensor([[1], [14]]), token)
    pixels = hidden.reshape(2, 16, 16, 16)[..., 0].unsqueeze(1)  # one token per pixel here
    patches = patchify(pixels, 4).eq(7.0)
    assert patches.all(dim=-1).nonzero().tolist() == [[0, 1], [1, 14]]
    assert patches.sum() == 32
