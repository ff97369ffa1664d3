"""Every backbone with every MIM branch and target: it trains, or is refused with a reason."""

import copy
from typing import Any, get_args

import pytest
import torch
from small_models import (
    BACKBONES,
    CONVOLUTIONAL,
    HIERARCHICAL,
    build,
    draw,
    draw_noise,
    mae,
    scramble,
    simmim,
)

from semimae.backbones.from_timm import FAMILIES, family_of
from semimae.mim.branch import LOSSES
from semimae.mim.targets import TARGETS
from semimae.options.backbone import BackboneConfig
from semimae.options.mim import LossName, MIMConfig, TargetName
from semimae.types import UserError

BRANCHES = {"mae": mae, "simmim": simmim}
TARGET_NAMES = get_args(TargetName)


def members(union: Any) -> set[type]:
    return set(get_args(get_args(union)[0]))


def test_the_examples_cover_the_registries() -> None:
    every = [*BACKBONES.values(), *CONVOLUTIONAL.values()]  # the latter have no patches to hide
    assert {type(config) for config in every} == members(BackboneConfig)
    assert {type(make()) for make in BRANCHES.values()} == members(MIMConfig)
    families = [family_of(c.model) for c in every if c.name == "timm"]
    assert all(family in families for family in FAMILIES.values())
    assert {*TARGETS, "teacher_features"} == set(TARGET_NAMES)
    assert set(LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize("target", TARGET_NAMES)
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_pair_trains_or_is_refused(name: str, branch: str, target: str) -> None:
    options = BRANCHES[branch](target=target)
    if name in HIERARCHICAL and branch == "mae":
        with pytest.raises(UserError, match=r"mim\.name=mae .* windowed .* mim\.name: simmim"):
            build(BACKBONES[name], options)
        return
    model = build(BACKBONES[name], options)
    teacher = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model.mim_loss(draw(), draw_noise(), teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert loss.shape == ()
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_reach_all_but_the_classifier(name: str, branch: str) -> None:
    if name in HIERARCHICAL and branch == "mae":
        pytest.skip("refused")
    model = build(BACKBONES[name], BRANCHES[branch]())
    scramble(model)
    model.mim_loss(draw(), draw_noise()).backward()
    without = {
        parameter
        for parameter, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    }
    assert {parameter.partition(".head.")[0] for parameter in without} == {"backbone.vit"}


@pytest.mark.parametrize("loss", get_args(LossName))
def test_losses(loss: LossName) -> None:
    model = build(BACKBONES["vit"], simmim(loss=loss))
    assert model.mim is not None
    prediction, mask = model.mim.reconstruct(model.backbone, draw(), draw_noise())
    target = model.mim.target(draw(), model.backbone)
    total = count = 0.0
    for image, ids in enumerate(mask.ids_hide.tolist()):
        for k, patch in enumerate(ids):
            gaps = (prediction[image, k] - target[image, patch]).abs().tolist()
            for gap in gaps:
                smooth = 0.5 * gap**2 if gap < 1 else gap - 0.5
                total += {"mse": gap**2, "l1": gap, "smooth_l1": smooth}[loss]
                count += 1
    assert model.mim_loss(draw(), draw_noise()).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_one_channel_and_other_sizes(name: str) -> None:
    model = build(BACKBONES[name], simmim(target="hog"), channels=1, image_size=32)
    noise = draw_noise(model.backbone.num_patches)
    assert noise.shape[1] == 64
    assert model.mim_loss(draw(1, 32), noise).isfinite()
    assert model(draw(1, 32)).shape == (3, 5)
