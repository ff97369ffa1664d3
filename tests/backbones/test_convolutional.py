"""Convolutional networks: of timm by their names, and the plain one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    CHANNELS,
    CLASSES,
    CONVOLUTIONAL,
    WITH_BATCH_NORM,
    mae,
    save,
    scramble,
    simmim,
    timm_conv,
)
from small_models import build as build_small
from small_models import draw as draw_small
from torch import Tensor, nn
from torch.nn import functional

from semimae.backbones.batch_norm import running_statistics
from semimae.backbones.convolutional import ConvNet
from semimae.backbones.weights import load_weights
from semimae.engine.optim import parameter_groups
from semimae.model import SemiModel
from semimae.options.backbone import CNNConfig, TimmConfig
from semimae.types import UserError

SIZE = 32  # in pixels: the total stride of most networks


def build(*parts: Any, **options: int) -> SemiModel:
    return build_small(*parts, **({"image_size": SIZE} | options))  # type: ignore[arg-type]


def draw(channels: int = CHANNELS, size: int = SIZE) -> Tensor:
    return draw_small(channels, size)


def scrambled(name: str) -> SemiModel:
    model = build(CONVOLUTIONAL[name])
    scramble(model)
    return model


def backbone_of(model: SemiModel) -> ConvNet:
    assert isinstance(model.backbone, ConvNet)
    return model.backbone


def by_hand(weights: dict[str, Tensor], images: Tensor, *, training: bool) -> Tensor:
    """The plain network's logits, one operation after the other."""
    x, prefix = images, "backbone.vit."
    for block in range(3):
        x = functional.conv2d(x, weights[f"{prefix}blocks.{block}.0.weight"], padding=1)
        norm = f"{prefix}blocks.{block}.1."
        if training:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        else:
            mean, variance = weights[f"{norm}running_mean"], weights[f"{norm}running_var"]
        x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5).sqrt()
        x = x * weights[f"{norm}weight"].view(1, -1, 1, 1) + weights[f"{norm}bias"].view(
            1, -1, 1, 1
        )
        x = x.clamp(min=0).unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    return x.mean(dim=(2, 3)) @ weights[f"{prefix}head.weight"].T + weights[f"{prefix}head.bias"]


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_the_plain_network_is_what_it_says(training: bool) -> None:
    model = scrambled("cnn").double().train(training)
    expected = by_hand(model.state_dict(), draw().double(), training=training)
    torch.testing.assert_close(model(draw().double()), expected)
    assert backbone_of(model).embed_dim == 16


@pytest.mark.parametrize("image_size", [1, 12, 28])
@torch.no_grad()
def test_the_plain_network_takes_images_of_any_size(image_size: int) -> None:
    model = build(CNNConfig(name="cnn", width=2, depth=5, weights=None)).eval()
    assert model(draw(size=image_size)).isfinite().all()


@pytest.mark.parametrize("name", sorted(CONVOLUTIONAL.keys() - {"cnn"}))
@torch.no_grad()
def test_forward_equals_timms_own(name: str) -> None:
    model = scrambled(name).double().eval()
    expected = backbone_of(model).vit(draw().double())
    assert expected.std() > 0.01, "all logits alike would prove nothing"
    torch.testing.assert_close(model(draw().double()), expected)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_sizes(name: str) -> None:
    backbone = backbone_of(scrambled(name).eval())
    assert (backbone.image_size, backbone.channels) == (SIZE, CHANNELS)
    features = backbone.features(draw())
    assert features.shape == (3, backbone.embed_dim)
    assert backbone.classify(features).shape == (3, CLASSES)
    assert not backbone.has_patches
    assert not backbone.num_patches


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_images_are_mixed_where_it_says_so(name: str) -> None:
    model = scrambled(name).train()
    together, apart = model(draw())[:2], model(draw()[:2])
    alike = torch.allclose(together, apart, rtol=1e-3, atol=1e-4)
    assert alike != model.backbone.mixes_images
    assert model.backbone.mixes_images == (name in WITH_BATCH_NORM)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_it_draws_nothing_while_training(name: str) -> None:
    model = scrambled(name).train()
    before = torch.get_rng_state()
    assert torch.equal(model(draw()), model(draw()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_parameter_has_a_depth(name: str) -> None:
    backbone = backbone_of(build(CONVOLUTIONAL[name]))
    depths = {p: backbone.layer_id(p) for p, _ in backbone.named_parameters()}
    assert set(depths.values()) == set(range(backbone.num_layers + 1))
    parts = {part: module for part, module in backbone.named_modules()}
    first = next(part for part, module in parts.items() if isinstance(module, nn.Conv2d))
    last = next(part for part, module in parts.items() if module is backbone.classifier)
    assert depths[f"{first}.weight"] == 0
    assert depths[f"{last}.weight"] == depths[f"{last}.bias"] == backbone.num_layers


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutions_and_the_classifier_are_decayed(name: str) -> None:
    model = build(CONVOLUTIONAL[name])
    groups = parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=1.0)
    decayed = {p for group in groups if group["weight_decay"] for p in group["names"]}  # type: ignore[attr-defined]
    layers = [
        f"{part}.weight"
        for part, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert decayed == set(layers)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_fresh_head_changes_the_head_only(name: str) -> None:
    backbone = backbone_of(scrambled(name))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with torch.random.fork_rng():
        backbone.reset_head()
    changed = {k for k, value in backbone.state_dict().items() if not torch.equal(value, before[k])}
    head = next(part for part, m in backbone.named_modules() if m is backbone.classifier)
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_recomputing_gives_the_same_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = scrambled("convnext").double().train()
        model.backbone.recompute = recompute
        model(draw().double()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


# --- starting weights


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_weights_are_taken_over(name: str, tmp_path: Path) -> None:
    source = scrambled(name).eval()
    model = build(CONVOLUTIONAL[name], seed=3).eval()
    path = save(tmp_path / "w.pth", source.backbone.vit.state_dict())  # type: ignore[attr-defined]
    report = load_weights(model, path)
    assert (report.missing, report.unexpected, report.dropped) == ((), (), ())
    torch.testing.assert_close(model(draw()), source(draw()))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@torch.no_grad()
def test_a_gray_image_is_seen_as_one_of_equal_colors(name: str, tmp_path: Path) -> None:
    source = scrambled(name).eval()
    model = build(CONVOLUTIONAL[name], channels=1).eval()
    path = save(tmp_path / "w.pth", source.state_dict())
    report = load_weights(model, path)
    assert len(report.resized) == 1
    expected = source(draw(1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(model(draw(1)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_classifier_of_other_classes_is_dropped(name: str, tmp_path: Path) -> None:
    model = build(CONVOLUTIONAL[name], num_classes=9)
    report = load_weights(model, save(tmp_path / "w.pth", scrambled(name).state_dict()))
    head = next(part for part, m in model.named_modules() if m is backbone_of(model).classifier)
    assert report.dropped == (f"{head}.bias", f"{head}.weight")


# --- what is refused


@pytest.mark.parametrize("branch", [mae(), simmim()])
@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_there_are_no_patches_to_hide(name: str, branch: object) -> None:
    with pytest.raises(UserError, match=r"convolutional network, which has no patches .* fixmatch"):
        build(CONVOLUTIONAL[name], branch)


RESNET = timm_conv("test_resnet")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            RESNET.model_copy(update={"depth": 3}),
            r"backbone\.depth=3: test_resnet is a conv.* null",
        ),
        (RESNET.model_copy(update={"window_size": 4}), r"backbone\.window_size=4: .* to null"),
        (RESNET.model_copy(update={"pool": "token"}), r"no class token; set backbone\.pool: avg"),
        (timm_conv("vgg11"), r"of timm's family vgg; .* resnet, convnext, efficientnet, mobile"),
    ],
    ids=lambda value: "" if isinstance(value, TimmConfig) else value,
)
def test_models_that_cannot_be_used_are_refused(config: TimmConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(config)


def test_images_that_would_shrink_to_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"test_convnext for images of 16 px: .* data\.image_size"):
        build(CONVOLUTIONAL["convnext"], image_size=16)


# --- BatchNorm's statistics


def test_running_statistics_are_all_that_training_moves() -> None:
    model = scrambled("efficientnet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(draw())
    moved = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    moved = {k for k in moved if not k.endswith("num_batches_tracked")}  # nothing reads it
    found = {id(statistic) for statistic in running_statistics(model)}
    assert moved == {k for k, buffer in model.named_buffers() if id(buffer) in found}
    assert moved
