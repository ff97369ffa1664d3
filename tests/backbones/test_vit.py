import itertools
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from scipy import stats
from small_models import timm_model
from support import section
from torch import Tensor

from semimae.backbones.vit import ViT
from semimae.model import build_backbone
from semimae.positions import sincos_position_embedding
from semimae.types import UserError

CONFIG = {
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2.0,
    "pool": "token",
    "num_registers": 0,
    "pos_embed": "learned",
}
VARIANTS = [
    dict(zip(("pool", "num_registers", "pos_embed", "channels"), values, strict=True))
    for values in itertools.product(
        ("token", "avg", "norm_avg"), (0, 2), ("learned", "sincos"), (1, 3)
    )
]


def build(channels: int = 3, image_size: int = 16, **changes: object) -> ViT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = build_backbone(section("backbone", **(CONFIG | changes)), image_size, channels, 5)
        assert isinstance(vit, ViT)
        # what starts at zero would hide a mistake
        for parameter in vit.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return vit


def draw(channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def variant(request: pytest.FixtureRequest) -> tuple[ViT, Tensor]:
    return build(**request.param), draw(request.param["channels"])


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_forward_equals_timms_own(variant: tuple[ViT, Tensor]) -> None:
    vit, images = variant
    tokens = vit.vit.forward_features(images)  # with pool: avg before the norm
    close(vit.encode(vit.tokenize(images)), vit.vit.fc_norm(tokens))
    close(vit.features(images), vit.vit.forward_head(tokens, True))
    close(vit(images), vit.vit(images))


@torch.no_grad()
def test_forward_is_the_chain_of_its_parts(variant: tuple[ViT, Tensor]) -> None:
    vit, images = variant
    torch.testing.assert_close(vit(images), vit.classify(vit.features(images)))
    if vit.vit.global_pool == "token":
        features = vit.pool(vit.encode(vit.tokenize(images)))
        torch.testing.assert_close(vit.features(images), features)


@torch.no_grad()
def test_tokens_equal_timms_convolution_and_positions(variant: tuple[ViT, Tensor]) -> None:
    vit, images = variant
    expected = vit.vit.patch_embed(images) + vit.vit.pos_embed[:, -vit.num_patches :]
    close(vit.tokenize(images), expected)


@torch.no_grad()
def test_tokens_of_kept_patches_are_picked_from_all_tokens(variant: tuple[ViT, Tensor]) -> None:
    vit, images = variant
    ids = torch.tensor([[5, 0, 15], [1, 2, 3], [7, 7, 4]])
    tokens = vit.tokenize(images)
    close(vit.tokenize(images, ids), torch.stack([tokens[n, ids[n]] for n in range(3)]))


@torch.no_grad()
def test_pooling_leaves_class_and_register_tokens_out(variant: tuple[ViT, Tensor]) -> None:
    vit, images = variant
    encoded = vit.encode(vit.tokenize(images))
    assert encoded.shape == (3, vit.num_prefix_tokens + 16, 24)
    if vit.vit.global_pool == "token":
        expected = encoded[:, 0]
    else:
        expected = encoded[:, vit.num_prefix_tokens :].mean(dim=1)
    close(vit.pool(encoded), expected)


@torch.no_grad()
def test_encoded_tokens_are_normalized_also_with_average_pooling() -> None:
    """The norm is behind the pooling for the classifier; the MIM branch needs it for each token."""
    vit = build(pool="avg")
    vit.vit.fc_norm.weight.fill_(1.0)
    vit.vit.fc_norm.bias.fill_(0.0)
    encoded = vit.encode(vit.tokenize(draw()))
    close(encoded.mean(dim=-1), torch.zeros(3, 17))
    close(encoded.var(dim=-1, unbiased=False), torch.ones(3, 17))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "timm"])
def test_average_pooling_is_that_of_timms_model_with_equal_weights(name: str) -> None:
    sizes = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    of_timm = timm_model(model="vit_tiny_patch16_224", pool="avg", **sizes)
    ours = build_backbone(of_timm, 16, 3, 5) if name == "timm" else build(pool="avg", mlp_ratio=4.0)
    assert isinstance(ours, ViT)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", global_pool="avg", num_classes=5, img_size=16, **sizes
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.vit.load_state_dict(theirs.state_dict())
    images = draw()
    close(ours(images), theirs(images))
    # and by the formula, with no code of timm's
    tokens = ours._run(ours.tokenize(images), None, None)[:, 1:].mean(dim=1)
    centered = tokens - tokens.mean(dim=1, keepdim=True)
    scaled = centered / (centered.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    close(ours.features(images), scaled * theirs.fc_norm.weight + theirs.fc_norm.bias)


@torch.no_grad()
def test_the_mean_of_normalized_patches() -> None:
    vit, images = build(pool="norm_avg"), draw()
    encoded = vit.encode(vit.tokenize(images))
    close(vit.features(images), encoded[:, 1:].mean(dim=1))
    centered = vit._run(vit.tokenize(images), None, None)
    centered -= centered.mean(dim=-1, keepdim=True)
    scaled = centered / (centered.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    close(encoded, scaled * vit.vit.norm.weight + vit.vit.norm.bias)


def test_the_mean_of_normalized_patches_is_for_the_plain_vit() -> None:
    with pytest.raises(UserError, match="pool=norm_avg: only"):
        build_backbone(timm_model(model="vit_tiny_patch16_224", pool="norm_avg"), 16, 3, 5)


def test_the_classifier_behind_the_mean_starts_near_zero() -> None:
    """MAE: normal of standard deviation 2e-5, cut at values that it never reaches; bias 0."""
    config = section("backbone", **CONFIG | {"pool": "avg", "embed_dim": 192})
    vit: Any = build_backbone(config, 16, 3, 1000)
    for _ in range(2):
        weight = vit.classifier.weight.detach()
        assert weight.std().item() == pytest.approx(2e-5, rel=0.02)
        assert stats.kstest(weight.flatten()[::50] / 2e-5, "norm").pvalue > 0.01
        assert not vit.classifier.bias.any()
        torch.nn.init.ones_(vit.classifier.weight)
        torch.nn.init.ones_(vit.classifier.bias)
        vit.reset_head()
    token: Any = build_backbone(section("backbone", **CONFIG), 16, 3, 5)
    assert token.classifier.weight.std() > 0.1


def test_sizes() -> None:
    vit = build(num_registers=2)
    assert (vit.image_size, vit.patch_size, vit.channels, vit.embed_dim) == (16, 4, 3, 24)
    assert (vit.num_patches, vit.num_prefix_tokens, vit.num_layers) == (16, 3, 3)
    assert vit(draw()).shape == (3, 5)


def test_fixed_positions_are_sines_and_cosines() -> None:
    vit = build(pos_embed="sincos", num_registers=2)
    assert not vit.vit.pos_embed.requires_grad
    positions = vit.vit.pos_embed[0]
    close(positions[-16:], sincos_position_embedding(24, 4).float())
    assert not positions[:-16].any()


def test_learned_positions_are_trained() -> None:
    vit = build(num_registers=2)
    vit(draw()).sum().backward()
    assert vit.vit.pos_embed.grad is not None
    assert all(p.grad is not None and p.grad.any() for p in vit.parameters())


def test_the_depth_of_every_parameter() -> None:
    vit = build(num_registers=1)
    depth = {name: vit.layer_id(name) for name, _ in vit.named_parameters()}
    embedding = {"vit.cls_token", "vit.reg_token", "vit.pos_embed"}
    embedding |= {"vit.patch_embed.proj.weight", "vit.patch_embed.proj.bias"}
    assert {name for name, layer in depth.items() if layer == 0} == embedding
    for block in range(2):
        names = {name for name in depth if name.startswith(f"vit.blocks.{block}.")}
        assert names
        assert {name for name, layer in depth.items() if layer == block + 1} == names
    last = {"vit.norm.weight", "vit.norm.bias", "vit.head.weight", "vit.head.bias"}
    assert {name for name, layer in depth.items() if layer == 3} == last
    assert vit.num_layers == 3


def test_a_fresh_head_changes_the_head_only() -> None:
    vit = build()
    before = {name: p.clone() for name, p in vit.named_parameters()}
    with torch.random.fork_rng():
        vit.reset_head()
    changed = {n for n, p in vit.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"vit.head.weight", "vit.head.bias"}
    assert not vit.vit.head.bias.any()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"data\.image_size=18 is not a multiple of backbone\.patch"
    ):
        build(image_size=18)
    with pytest.raises(ValidationError, match=r"embed_dim=25 .* num_heads=3"):
        build(embed_dim=25)


def test_positions_that_no_width_can_hold_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"embed_dim=27 is not a multiple of 4"):
        build(embed_dim=27, pos_embed="sincos")
