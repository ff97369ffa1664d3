"""Backbones by their names in timm."""

import pytest
import torch
from small_models import BACKBONES, FLAT, HIERARCHICAL, build, draw, scramble, simmim, timm_model
from torch import Tensor

from semimae.backbones.vit import ViT
from semimae.engine.optim import parameter_groups
from semimae.options.backbone import TimmConfig
from semimae.types import UserError


def scrambled(name: str) -> ViT:
    backbone = build(BACKBONES[name]).backbone
    assert isinstance(backbone, torch.nn.Module)
    scramble(backbone)
    return backbone.double().train()  # type: ignore[return-value]


def images() -> Tensor:
    return draw().double()


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_forward_equals_timms_own(name: str) -> None:
    backbone = scrambled(name)
    torch.testing.assert_close(backbone(images()), backbone.vit(images()))
    features = backbone.vit.forward_head(backbone.vit.forward_features(images()), pre_logits=True)
    torch.testing.assert_close(backbone.features(images()), features)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_sizes(name: str) -> None:
    backbone = scrambled(name)
    assert (backbone.image_size, backbone.patch_size, backbone.channels) == (16, 4, 3)
    assert backbone.num_patches == 16
    tokens = backbone.tokenize(images())
    assert tokens.shape[-1] == backbone.token_dim
    encoded = backbone.encode(tokens)
    assert encoded.shape == (3, backbone.num_prefix_tokens + 16, backbone.embed_dim)
    assert backbone.can_drop_patches == (name in FLAT)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_it_draws_nothing_while_training(name: str) -> None:
    backbone = scrambled(name)
    before = torch.get_rng_state()
    assert torch.equal(backbone(images()), backbone(images()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", FLAT)
@torch.no_grad()
def test_all_patches_in_another_order(name: str) -> None:
    backbone = scrambled(name)
    order = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    encoded = backbone.encode(backbone.tokenize(images()))
    prefix, patches = encoded.tensor_split([backbone.num_prefix_tokens], dim=1)
    shuffled = torch.stack([patches[n, order[n]] for n in range(3)])
    ours = backbone.encode(backbone.tokenize(images(), order), order)
    torch.testing.assert_close(ours, torch.cat([prefix, shuffled], dim=1))


@pytest.mark.parametrize("name", FLAT)
@torch.no_grad()
def test_dropping_patches_equals_not_attending_to_them(name: str) -> None:
    """The same blocks on all tokens, in which a mask hides the dropped ones from all others."""
    backbone = scrambled(name)
    kept = [2, 3, 7, 11, 12]
    ids = torch.tensor([kept] * 3)
    ours = backbone.encode(backbone.tokenize(images(), ids), ids)

    vit, num_prefix = backbone.vit, backbone.num_prefix_tokens
    rows = [*range(num_prefix), *(num_prefix + i for i in kept)]
    seen = torch.zeros(num_prefix + 16, dtype=torch.bool)
    seen[rows] = True
    x = vit._pos_embed(vit.patch_embed(images()))
    x, rotation = x if isinstance(x, tuple) else (x, None)
    x = vit.norm_pre(x)
    for index, block in enumerate(vit.blocks):
        options = {}
        if rotation is not None:
            options["rope"] = rotation[index] if rotation.ndim == 4 else rotation
        x = block(x, attn_mask=seen.expand(3, 1, len(seen), -1), **options)
    torch.testing.assert_close(ours, vit.fc_norm(vit.norm(x))[:, rows])  # one is the identity


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_windows_need_all_patches(name: str) -> None:
    with pytest.raises(UserError, match=r"windows needs all patches; choose mim\.name: simmim"):
        scrambled(name).tokenize(images(), torch.zeros(3, 4, dtype=torch.int64))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_has_a_depth(name: str) -> None:
    backbone = scrambled(name)
    depths = {p: backbone.layer_id(p) for p, _ in backbone.named_parameters()}
    assert set(depths.values()) == set(range(backbone.num_layers + 1))
    assert depths["vit.patch_embed.proj.weight"] == 0
    heads = {depth for p, depth in depths.items() if ".head." in p}
    assert heads == {backbone.num_layers}
    in_order = [depth for p, depth in depths.items() if ".blocks." in p]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_timm_does_not_decay_is_not_decayed(name: str) -> None:
    model = build(BACKBONES[name])
    groups = parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=1.0)
    decayed = {p for group in groups if group["weight_decay"] for p in group["names"]}  # type: ignore[attr-defined]
    vit = model.backbone.vit  # type: ignore[attr-defined]
    named = dict(vit.named_parameters())
    kept = {p for p in named if named[p].ndim <= 1 or p in vit.no_weight_decay()}
    assert decayed == {f"backbone.vit.{p}" for p in named.keys() - kept}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fresh_head_changes_the_head_only(name: str) -> None:
    backbone = scrambled(name)
    before = {p: value.clone() for p, value in backbone.named_parameters()}
    with torch.random.fork_rng():
        backbone.reset_head()
    changed = {p for p, value in backbone.named_parameters() if not torch.equal(value, before[p])}
    assert changed
    assert all(p.startswith("vit.head.") for p in changed)


SWIN = HIERARCHICAL["swin"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (timm_model(model="mixer_b16_224"), r"is of timm's family mlp_mixer; .* swin_transformer"),
        (timm_model(model="vit_tiny_patch16_242"), r"not a model of timm .* vit_tiny_patch16_224"),
        (timm_model(model="vit_tiny_patch16_224.augreg"), r"a tag after a dot belongs in"),
        (
            timm_model(model="deit_tiny_distilled_patch16_224", pool="token"),
            r"VisionTransformerDistilled .* without distillation token",
        ),
        (timm_model(model="vit_base_patch16_siglip_224", pool="token"), r"needs the class token"),
        (timm_model(patch_size=None), r"image_size=24 is not a multiple of 16 px, the patch of"),
        (timm_model(num_heads=3), r"timm cannot build .* divisible by num_heads"),
        (timm_model(depth=[2, 2]), r"backbone\.depth=\[2, 2\]: vit_.* takes one number"),
        (timm_model(window_size=4), r"window_size=4: vit_.* has no windows; set it to null"),
        (SWIN.model_copy(update={"pool": "token"}), r"no class token; set backbone\.pool: avg"),
        (SWIN.model_copy(update={"depth": 2}), r"backbone\.depth=2: swin_.* takes a list"),
        (SWIN.model_copy(update={"patch_size": 8}), r"not a multiple of 32 px, the last stage"),
        (SWIN.model_copy(update={"window_size": 5}), r"stage 1 .* 24 tokens .* windows of 5"),
    ],
    ids=lambda value: "" if isinstance(value, TimmConfig) else value,
)
def test_models_that_cannot_be_used_are_refused(config: TimmConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(config, image_size=24)


def test_null_leaves_a_size_as_the_name_says_it() -> None:
    sizes = dict.fromkeys(["patch_size", "embed_dim", "num_heads"])
    backbone = build(timm_model(**sizes, depth=1), image_size=32).backbone
    assert (backbone.patch_size, backbone.embed_dim, backbone.num_patches) == (16, 192, 4)


def test_first_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (build(FLAT["eva02"], simmim(), seed=seed) for seed in (0, 0, 1))
    theirs = again.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in first.state_dict().items())
    assert not torch.equal(first(draw()), other(draw()))
