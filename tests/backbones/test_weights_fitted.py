"""Weights of models of other sizes: what is brought into line, and what is left out."""

from pathlib import Path

import pytest
import torch
from small_models import BACKBONES, build, draw, mae, save, simmim
from small_models import vit as vit_config

from semimae.backbones.weights import load_weights, resize_positions
from semimae.model import SemiModel


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
    gray = draw(1)
    expected = source(gray.expand(-1, theirs, -1, -1))
    torch.testing.assert_close(model(gray.expand(-1, ours, -1, -1)), expected)


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
    state = trained.state_dict() | {"backbone.vit.dist_token": torch.zeros(1, 1, 16)}
    del state["backbone.vit.head.bias"]
    model = build(vit_config(pos_embed="learned"), mae(), image_size=32, num_classes=9)
    report = load_weights(model, save(tmp_path / "w.pth", state))
    assert report.missing == ("backbone.vit.head.bias",)
    assert report.unexpected == ("backbone.vit.dist_token",)
    assert report.num_loaded + len(report.dropped) + 1 == len(state)
    text = str(report)
    assert text.startswith(f"{tmp_path}/w.pth: {report.num_loaded} tensors loaded\n")
    for part in ("missing (1): backbone.vit.head.bias", "dropped (1)", "resized (2)"):
        assert part in text
