import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import section
from torch import nn

from semimae.engine.optim import (
    build_optimizer,
    cosine_lr,
    ema_update,
    load_state,
    parameter_groups,
    set_lr,
)
from semimae.model import SemiModel, build_backbone, build_model
from semimae.options.mim import Masked
from semimae.options.train import OptimConfig


def small_model(**changes: object) -> SemiModel:
    """Two blocks and a register token."""
    return build_model(
        section("backbone", **({"num_registers": 1, "pos_embed": "learned"} | changes)),
        Masked(mask_ratio=0.5, branch=section("mim")),
        image_size=8,
        channels=1,
        num_classes=3,
        seed=0,
    )


def settings(groups: list[dict[str, object]]) -> dict[str, tuple[float, float]]:
    """Return lr_scale and weight_decay by parameter name."""
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        for name in group["names"]:  # type: ignore[attr-defined]
            assert name not in found, f"{name} is in two groups"
            found[name] = (group["lr_scale"], group["weight_decay"])  # type: ignore[assignment]
    return found


# --- schedule


def test_schedule_equals_the_published_reference(shared: Path) -> None:
    for case in json.loads((shared / "golden" / "lr_schedule.json").read_text()):
        for epoch, expected in case["points"]:
            ours = cosine_lr(
                epoch,
                lr=case["lr"],
                min_lr=case["min_lr"],
                warmup=case["warmup_epochs"],
                total=case["epochs"],
            )
            assert ours == pytest.approx(expected, rel=1e-6), (case, epoch)


def test_schedule_at_the_points_that_need_no_reference() -> None:
    def lr(step: float) -> float:
        return cosine_lr(step, lr=2.0, min_lr=1.0, warmup=10, total=30)

    assert lr(0) == 0
    assert lr(5) == pytest.approx(1.0)  # half of the peak
    assert lr(10) == pytest.approx(2.0)
    assert lr(20) == pytest.approx(1.5)  # half way down
    assert lr(30) == pytest.approx(1.0)
    assert lr(1000) == pytest.approx(1.0)  # and stays there


@given(st.integers(0, 50), st.integers(1, 100), st.floats(1e-6, 10), st.floats(0, 1))
def test_schedule_stays_between_zero_and_the_peak(
    warmup: int, total: int, peak: float, share: float
) -> None:
    values = [
        cosine_lr(step, lr=peak, min_lr=peak * share, warmup=warmup, total=total)
        for step in range(total)
    ]
    assert all(math.isfinite(v) and 0 <= v <= peak * (1 + 1e-12) for v in values)
    rising, falling = values[: warmup + 1], values[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


# --- parameter groups


def test_layer_decay_equals_the_published_reference_on_timms_vit_tiny(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "layer_decay_vit_tiny.json").read_text())
    assert golden["model"] == "vit_tiny_patch16_224"
    config = section(
        "backbone",
        patch_size=16,
        embed_dim=192,
        depth=12,
        num_heads=3,
        mlp_ratio=4.0,
        pool="token",
        num_registers=0,
        pos_embed="learned",
    )
    backbone = build_backbone(config, 224, 3, golden["num_classes"])
    ours = settings(
        parameter_groups(
            SemiModel(backbone, None),
            backbone,
            weight_decay=golden["weight_decay"],
            layer_decay=golden["layer_decay"],
        )
    )
    assert {name.removeprefix("backbone.vit.") for name in ours} == golden["parameters"].keys()
    for name, expected in golden["parameters"].items():
        scale, decay = ours[f"backbone.vit.{name}"]
        assert scale == pytest.approx(expected["lr_scale"], rel=1e-6), name
        assert decay == expected["weight_decay"], name


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = small_model()
    groups = parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=0.5)
    assert settings(groups).keys() == dict(model.named_parameters()).keys()
    named = dict(model.named_parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):  # type: ignore[call-overload]
            assert parameter is named[name]


def test_weight_decay_spares_vectors_tokens_and_positions() -> None:
    model = small_model()
    decay = {
        name: decay
        for name, (_, decay) in settings(
            parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=1.0)
        ).items()
    }
    spared = {name for name, value in decay.items() if value == 0}
    assert {name for name, value in decay.items() if value == 0.1} == decay.keys() - spared
    assert {
        "backbone.vit.cls_token",
        "backbone.vit.reg_token",
        "backbone.vit.pos_embed",
        "backbone.vit.norm.weight",
        "backbone.vit.head.bias",
        "mim.mask_token",
        "mim.decoder_embed.bias",
    } <= spared
    assert {
        "backbone.vit.patch_embed.proj.weight",
        "backbone.vit.blocks.0.attn.qkv.weight",
        "backbone.vit.head.weight",
        "mim.decoder_pred.weight",
    }.isdisjoint(spared)


def test_the_branch_and_the_classifier_learn_at_the_full_rate() -> None:
    model = small_model()
    groups = parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=0.5)
    for name, (scale, _) in settings(groups).items():
        if name.startswith(("mim.", "backbone.vit.head.", "backbone.vit.norm.")):
            assert scale == 1.0, name
        elif name.startswith("backbone.vit.blocks."):
            assert scale == {"0": 0.25, "1": 0.5}[name.split(".")[3]], name
        else:
            assert scale == 0.125, name


def test_fixed_positions_are_not_trained() -> None:
    model = small_model(pos_embed="sincos")
    groups = parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=1.0)
    assert dict(model.named_parameters()).keys() - settings(groups).keys() == {
        "backbone.vit.pos_embed"
    }


def test_one_step_equals_adamw_by_hand() -> None:
    """Scale, decay and betas arrive at the update, not only in the groups."""
    model = small_model()
    optim = OptimConfig(
        lr=0.5,
        min_lr=0.0,
        warmup_steps=0,
        weight_decay=0.1,
        betas=(0.7, 0.9),
        layer_decay=0.5,
        grad_clip=1.0,
    )
    optimizer = build_optimizer(model, model.backbone, optim)
    set_lr(optimizer, 0.01)
    name = "backbone.vit.blocks.0.attn.qkv.weight"
    parameter = dict(model.named_parameters())[name]
    before = parameter.detach().double().clone()
    gradients = [torch.full_like(parameter, 3.0), torch.full_like(parameter, -1.0)]
    expected, first, second, lr = before, 0.0, 0.0, 0.01 * 0.25
    for step, gradient in enumerate(gradients, start=1):
        for other in model.parameters():
            other.grad = torch.zeros_like(other)
        parameter.grad = gradient.clone()
        optimizer.step()
        g = gradient[0, 0].item()
        first = 0.7 * first + 0.3 * g
        second = 0.9 * second + 0.1 * g * g
        update = (first / (1 - 0.7**step)) / (math.sqrt(second / (1 - 0.9**step)) + 1e-8)
        expected = expected * (1 - lr * 0.1) - lr * update
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(parameter.detach().double(), before, atol=1e-3)


# --- moving average


def test_moving_average_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = [
        [0.9 * a + 0.1 * b for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)]
        for x, y in zip(ours.parameters(), theirs.parameters(), strict=True)
    ]
    untouched = [p.clone() for p in theirs.parameters()]
    ema_update(ours, theirs, 0.9)
    for parameter, values in zip(ours.parameters(), expected, strict=True):
        assert parameter.flatten().tolist() == pytest.approx(values, rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(untouched, theirs.parameters(), strict=True))


def test_moving_average_without_memory_is_the_model() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    ema_update(ours, theirs, 0.0)
    assert torch.equal(ours.weight, theirs.weight)
    assert ours.weight is not theirs.weight


def test_a_sharded_optimizer_counts_where_its_weights_are() -> None:
    """ZeroRedundancyOptimizer loads scalars to the CPU; fused AdamW refuses them there."""
    weight = torch.nn.Parameter(torch.empty(2, device="meta"))

    class Sharded(torch.optim.AdamW):
        def __init__(self) -> None:
            super().__init__([weight])
            self.optim = torch.optim.AdamW([weight])

        def load_state_dict(self, state_dict: object) -> None:
            for holder in (self, self.optim):
                holder.state[weight] = {"step": torch.tensor(3.0)}

    optimizer = Sharded()
    load_state(optimizer, {})
    places = {s.state[weight]["step"].device.type for s in (optimizer, optimizer.optim)}
    assert places == {"meta"}
