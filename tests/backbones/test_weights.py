"""Weights of others: what is read, what is brought into line, what is refused."""

import argparse
import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import BACKBONES, FLAT, build, draw, draw_noise, mae, scramble, simmim
from small_models import timm_model as timm_config
from small_models import vit as vit_config
from torch import Tensor

from semimae.backbones.weights import load_weights, resize_positions
from semimae.model import SemiModel, build_model
from semimae.types import UserError

State = dict[str, Tensor]


def save(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def encoder_of(model: SemiModel) -> State:
    """Under the names of timm and of published checkpoints."""
    state = model.state_dict()
    return {k.removeprefix("backbone.vit."): v for k, v in state.items() if "backbone" in k}


@pytest.fixture
def trained() -> SemiModel:
    """A model that stands for a trained one."""
    model = build(vit_config(pos_embed="learned"), mae(), seed=7)
    scramble(model)
    return model


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
        mae(
            target="pixels",
            decoder_dim=config["decoder_embed_dim"],
            decoder_depth=config["decoder_depth"],
            decoder_heads=config["decoder_num_heads"],
        ),
        image_size=int(config["img_size"]),
        channels=3,
        num_classes=2,
        mask_ratio=config["mask_ratio"],
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
        build(vit_config(weights="timm:default"))


# --- brought into line


def test_another_grid(trained: SemiModel, tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", trained.state_dict())
    model = build(vit_config(pos_embed="learned"), mae(), image_size=32)
    report = load_weights(model, path)
    assert report.resized == (
        "backbone.vit.pos_embed (1x17x16 to 1x65x16)",
        "mim.decoder_pos_embed (1x17x8 to 1x65x8)",
    )
    assert report.missing == ()
    state, theirs = model.state_dict(), trained.state_dict()
    ours = state["backbone.vit.pos_embed"]
    assert torch.equal(ours[:, 0], theirs["backbone.vit.pos_embed"][:, 0])
    assert torch.equal(ours, resize_positions(theirs["backbone.vit.pos_embed"], 64, 1))


def test_positions_are_interpolated_on_their_grid() -> None:
    """A linear ramp stays one, away from the border."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    grid = torch.stack([rows, columns], dim=-1).reshape(1, 64, 2)
    positions = torch.cat([torch.full((1, 1, 2), 9.0), grid], dim=1)
    ours = resize_positions(positions, 256, 1)
    assert ours[0, 0].tolist() == [9.0, 9.0]
    inner = ours[0, 1:].reshape(16, 16, 2)[5:11, 5:11]
    expected = (torch.arange(5, 11) + 0.5) / 2 - 0.5
    torch.testing.assert_close(inner[..., 0], expected[:, None].expand(6, 6), rtol=0, atol=0.02)
    torch.testing.assert_close(inner[..., 1], expected[None].expand(6, 6), rtol=0, atol=0.02)
    assert torch.equal(resize_positions(positions, 64, 1), positions)


@pytest.mark.parametrize("num_prefix", [0, 1, 3])
@pytest.mark.parametrize("theirs", [0, 1])
def test_other_prefix_tokens(theirs: int, num_prefix: int) -> None:
    positions = torch.arange(1.0, theirs + 17).reshape(1, -1, 1)
    ours = resize_positions(positions, 16, num_prefix)
    assert torch.equal(ours[:, num_prefix:], positions[:, theirs:])
    kept = min(theirs, num_prefix)
    assert ours[0, :num_prefix, 0].tolist() == [1.0] * kept + [0.0] * (num_prefix - kept)


@pytest.mark.parametrize(("theirs", "ours"), [(3, 1), (1, 3)])
@torch.no_grad()
def test_other_channels(theirs: int, ours: int, tmp_path: Path) -> None:
    """An image of equal channels is seen as it was."""
    source, model = (
        build(vit_config(), channels=channels, seed=channels) for channels in (theirs, ours)
    )
    report = load_weights(model, save(tmp_path / "w.pth", source.state_dict()))
    assert [entry.split()[0] for entry in report.resized] == [
        "backbone.vit.patch_embed.proj.weight"
    ]
    grey = draw(1)
    expected = source(grey.expand(-1, theirs, -1, -1))
    torch.testing.assert_close(model(grey.expand(-1, ours, -1, -1)), expected)


def test_other_patches(tmp_path: Path) -> None:
    source, model = build(vit_config(), image_size=32), build(vit_config(patch_size=2))
    report = load_weights(model, save(tmp_path / "w.pth", source.state_dict()))
    assert report.resized == ("backbone.vit.patch_embed.proj.weight (16x3x4x4 to 16x3x2x2)",)


def test_other_windows(tmp_path: Path) -> None:
    source = build(BACKBONES["swin"])
    model = build(BACKBONES["swin"].model_copy(update={"window_size": 2}))
    report = load_weights(model, save(tmp_path / "w.pth", source.state_dict()))
    assert len(report.resized) == 5
    assert all("relative_position_bias_table (49x" in entry for entry in report.resized)


def test_a_classifier_of_other_classes_is_dropped(trained: SemiModel, tmp_path: Path) -> None:
    model = build(vit_config(pos_embed="learned"), mae(), num_classes=9)
    before = model.backbone.vit.head.weight.clone()  # type: ignore[attr-defined]
    report = load_weights(model, save(tmp_path / "w.pth", trained.state_dict()))
    assert report.dropped == ("backbone.vit.head.bias", "backbone.vit.head.weight")
    assert torch.equal(model.backbone.vit.head.weight, before)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "branch", [mae(decoder_dim=16), mae(decoder_depth=2), mae(target="hog"), simmim(), None]
)
def test_a_decoder_is_loaded_whole_or_not_at_all(
    branch: object, trained: SemiModel, tmp_path: Path
) -> None:
    model = build(vit_config(pos_embed="learned"), branch)  # type: ignore[arg-type]
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("mim.")}
    report = load_weights(model, save(tmp_path / "w.pth", trained.state_dict()))
    changed = {k for k, v in before.items() if not torch.equal(v, model.state_dict()[k])}
    assert not changed
    of_file = {k for k in trained.state_dict() if k.startswith("mim.")}
    assert of_file == {*report.dropped, *report.unexpected}


def test_every_key_is_reported(trained: SemiModel, tmp_path: Path) -> None:
    state = trained.state_dict() | {"backbone.vit.extra": torch.zeros(2)}
    del state["backbone.vit.norm.bias"]
    model = build(vit_config(pos_embed="learned"), mae(), image_size=32, num_classes=9)
    report = load_weights(model, save(tmp_path / "w.pth", state))
    assert report.missing == ("backbone.vit.norm.bias",)
    assert report.unexpected == ("backbone.vit.extra",)
    assert report.num_loaded + len(report.dropped) + 1 == len(state)
    text = str(report)
    assert text.startswith(f"{tmp_path}/w.pth: {report.num_loaded} tensors loaded\n")
    for part in ("missing (1): backbone.vit.norm.bias", "dropped (2)", "resized (2)"):
        assert part in text


# --- refused


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "bad.pth", {"model": {"cls_token": torch.zeros(1)}, "x": Malicious()})
    with pytest.raises(UserError, match=r"holds more than weights .* could run any code"):
        load_weights(build(FLAT["vit"]), path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04}q\x00.", bytes(range(256))])
def test_damaged_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.weights=.*(damaged|nothing)"):
        load_weights(build(FLAT["vit"]), name, root=tmp_path)


def test_other_content_is_refused(trained: SemiModel, tmp_path: Path) -> None:
    model = build(vit_config(pos_embed="learned"))
    with pytest.raises(UserError, match=r"no file; give one, timm:TAG, or null"):
        load_weights(model, "absent.pth", root=tmp_path)
    with pytest.raises(UserError, match=r"holds a Tensor; it must hold named weights"):
        load_weights(model, save(tmp_path / "w.pth", torch.zeros(3)))
    with pytest.raises(
        UserError, match=r"matches nothing in the backbone \(it holds backbone\.vit\.f"
    ):
        load_weights(model, save(tmp_path / "w.pth", {"fc.weight": torch.zeros(3)}))
    path = save(tmp_path / "w.pth", trained.state_dict())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=r"is \S+ there and \S+ in the model"):
        load_weights(build(vit_config(embed_dim=32)), path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
