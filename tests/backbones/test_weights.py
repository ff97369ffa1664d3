"""Weights of others, as they are published."""

import argparse
import json
from pathlib import Path

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import BACKBONES, FLAT, build, draw, draw_noise, mae, save, scramble, simmim
from small_models import timm_model as timm_config
from small_models import vit as vit_config
from torch import Tensor

from semimae.backbones.weights import load_weights
from semimae.model import SemiModel, build_model
from semimae.options.mim import Masked
from semimae.types import UserError

State = dict[str, Tensor]


def encoder_of(model: SemiModel) -> State:
    """Under the names of timm and of published checkpoints."""
    state = model.state_dict()
    return {k.removeprefix("backbone.vit."): v for k, v in state.items() if "backbone" in k}


# --- published checkpoints


@pytest.fixture(params=["mae_small", "mae_odd_ratio"])
def golden(request: pytest.FixtureRequest, shared: Path) -> tuple[dict[str, float], State]:
    with safe_open(shared / "golden" / f"{request.param}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["config"]), tensors


@pytest.mark.parametrize("with_decoder", [True, False])
def test_mae_checkpoints_are_read_under_their_own_names(
    golden: tuple[dict[str, float], State], with_decoder: bool, tmp_path: Path
) -> None:
    config, tensors = golden
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    decoder = {k for k in weights if k.startswith(("decoder", "mask_token"))}
    if not with_decoder:
        weights = {k: v for k, v in weights.items() if k not in decoder}
    # Training also saves its options.
    save(tmp_path / "mae.pth", {"model": weights, "args": argparse.Namespace(lr=1e-3), "epoch": 3})
    sizes = ("patch_size", "embed_dim", "depth", "num_heads")
    model = build_model(
        vit_config(**{k: config[k] for k in sizes}, mlp_ratio=4.0, weights="mae.pth"),
        Masked(
            mask_ratio=config["mask_ratio"],
            branch=mae(
                target="pixels",
                decoder_dim=config["decoder_embed_dim"],
                decoder_depth=config["decoder_depth"],
                decoder_heads=config["decoder_num_heads"],
            ),
        ),
        image_size=int(config["img_size"]),
        channels=3,
        num_classes=2,
        seed=0,
        weights_root=tmp_path,
    )
    report = model.weight_report
    assert report is not None
    head = ("backbone.vit.head.bias", "backbone.vit.head.weight")
    without = () if with_decoder else tuple(sorted(f"mim.{name}" for name in decoder))
    assert report.missing == head + without
    assert (report.unexpected, report.dropped, report.resized) == ((), (), ())
    assert report.num_loaded == len(weights)

    state = model.state_dict()
    assert torch.equal(state["backbone.vit.norm.bias"], weights["norm.bias"].float())
    model.double()
    exact = {k: v for k, v in tensors.items() if k.startswith("model.")}
    if with_decoder:  # float32 weights were kept in float64; the loss must not know
        load_weights(model, save(tmp_path / "exact.pth", exact))
        loss = model.mim_loss(tensors["input.images"].double(), tensors["input.noise"].double())
        assert loss.item() == pytest.approx(tensors["expected.loss"].item(), rel=1e-6)


# --- timm's files and our own


@pytest.mark.parametrize(("theirs", "ours"), [("token", "avg"), ("avg", "token")])
def test_the_final_norm_is_found_on_either_side_of_the_pooling(
    theirs: str, ours: str, tmp_path: Path
) -> None:
    """MAE's encoder has it in front of the mean that its fine-tuning takes."""
    source, model = build(vit_config(pool=theirs), seed=1), build(vit_config(pool=ours))
    scramble(source)
    save_file(encoder_of(source), tmp_path / "model.safetensors")
    report = load_weights(model, "model.safetensors", root=tmp_path)
    assert len(report.notes) == 1
    assert "features differ" in report.notes[0]
    tokens = source.backbone.encode(source.backbone.tokenize(draw()))
    assert torch.equal(model.backbone.encode(model.backbone.tokenize(draw())), tokens)


@pytest.mark.parametrize("name", BACKBONES)
def test_timms_files_are_read(name: str, tmp_path: Path) -> None:
    source, model = build(BACKBONES[name], seed=1), build(BACKBONES[name], simmim())
    save_file(encoder_of(source), tmp_path / "model.safetensors")
    report = load_weights(model, "model.safetensors", root=tmp_path)
    assert report.missing == ("mim.mask_token", "mim.predict.bias", "mim.predict.weight")
    assert torch.equal(model(draw()), source(draw()))


def test_our_own_files_are_read(trained: SemiModel, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    model = build(vit_config(pos_embed="learned"), mae())
    report = load_weights(model, str(tmp_path / "model.safetensors"))
    assert (report.missing, report.unexpected, report.dropped, report.resized) == ((),) * 4
    assert torch.equal(model(draw()), trained(draw()))
    noise = draw_noise()
    assert torch.equal(model.mim_loss(draw(), noise), trained.mim_loss(draw(), noise))


def test_original_swin_files_are_read(tmp_path: Path) -> None:
    """There tokens are merged at the end of a stage, in timm at the start of the next."""
    source, model = build(BACKBONES["swin"], seed=1), build(BACKBONES["swin"])
    state = {}
    for key, value in encoder_of(source).items():
        for stage in (1, 2):
            key = key.replace(f"layers.{stage}.down", f"layers.{stage - 1}.down")
        state[key.replace("head.fc.", "head.")] = value
    report = load_weights(model, save(tmp_path / "swin.pth", {"model": state}))
    assert (report.missing, report.unexpected, report.dropped, report.resized) == ((),) * 4
    assert torch.equal(model(draw()), source(draw()))


def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        if not pretrained:
            return create(name, **options)
        asked.append(name)
        return create(name.split(".")[0], depth=2)

    monkeypatch.setattr(timm, "create_model", offline)
    config = timm_config(patch_size=None, embed_dim=None, num_heads=None, weights="timm:default")
    report = build(config, image_size=32).weight_report
    assert report is not None
    assert asked == ["vit_tiny_patch16_224"]
    assert report.dropped == ("backbone.vit.head.bias", "backbone.vit.head.weight")
    assert report.resized == ("backbone.vit.pos_embed (1x197x192 to 1x5x192)",)
    build(config.model_copy(update={"weights": "timm:augreg_in21k"}), image_size=32)
    assert asked[1] == "vit_tiny_patch16_224.augreg_in21k"


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    model = build(FLAT["timm_vit"])
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(OSError\); download its model"):
        load_weights(model, "timm:default", timm_model="vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"no such weights; choose one of timm:default, timm:augr"):
        load_weights(model, "timm:nope", timm_model="vit_tiny_patch16_224")
    with pytest.raises(UserError, match=r"timm:default needs backbone\.name: timm"):
        load_weights(model, "timm:default")
    with pytest.raises(ValidationError, match=r"weights=timm:default needs backbone\.name: timm"):
        vit_config(weights="timm:default")
