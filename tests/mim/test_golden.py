"""Ours against the published reference code: see ../shared/golden/README.md."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support import section
from torch import Tensor

from semimae.backbones.vit import ViT
from semimae.mim.mae import MAE
from semimae.mim.masking import Mask, random_masking
from semimae.model import build_backbone, build_branch
from semimae.options.mim import Masked
from semimae.patches import gather_patches

NAMES = ["mae_small", "mae_odd_ratio"]
LOSSES = [("pixels", "loss", "grad"), ("norm_pixels", "loss_norm_pix", "grad_norm_pix")]


@dataclass
class Golden:
    config: dict[str, float]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def build(self, target: str) -> tuple[ViT, MAE]:
        """Our encoder and branch with the reference's weights."""
        c = self.config
        vit = section(
            "backbone",
            patch_size=c["patch_size"],
            embed_dim=c["embed_dim"],
            depth=c["depth"],
            num_heads=c["num_heads"],
            mlp_ratio=4.0,
            pool="token",
            num_registers=0,
            pos_embed="sincos",
        )
        mae = section(
            "mim",
            name="mae",
            target=target,
            loss="mse",
            masking="random",
            mask_unit=1,
            decoder_dim=c["decoder_embed_dim"],
            decoder_depth=c["decoder_depth"],
            decoder_heads=c["decoder_num_heads"],
        )
        backbone = build_backbone(vit, int(c["img_size"]), 3, 2).double()
        assert isinstance(backbone, ViT)
        branch = build_branch(Masked(mask_ratio=c["mask_ratio"], branch=mae), backbone).double()
        assert isinstance(branch, MAE)
        weights = self.under("model.")
        decoder = {k: v for k, v in weights.items() if k.startswith(("decoder", "mask_token"))}
        branch.load_state_dict(decoder)  # strict: the names and shapes are the reference's
        encoder = {f"vit.{k}": v for k, v in weights.items() if k not in decoder}
        head = {k: v for k, v in backbone.state_dict().items() if k.startswith("vit.head.")}
        backbone.load_state_dict(encoder | head)
        return backbone, branch

    def mask(self) -> Mask:
        return random_masking(self["input.noise"], self.config["mask_ratio"])


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    with safe_open(shared / "golden" / f"{request.param}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name).double() for name in file.keys()}  # noqa: SIM118
        return Golden(json.loads(file.metadata()["config"]), tensors)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-6 of the largest value: entries near zero are differences of larger numbers."""
    assert ours.dtype == theirs.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * theirs.abs().max().item())


def test_the_same_patches_are_hidden(golden: Golden) -> None:
    ids_keep, ids_hide = golden.mask()
    hidden = torch.ones_like(golden["expected.mask"])
    hidden[torch.arange(len(ids_keep))[:, None], ids_keep] = 0
    assert torch.equal(hidden, golden["expected.mask"])
    ids_restore = torch.cat([ids_keep, ids_hide], dim=1).argsort(dim=1)
    assert torch.equal(ids_restore, golden["expected.ids_restore"].long())


@torch.no_grad()
def test_encoder_on_visible_patches(golden: Golden) -> None:
    backbone, _ = golden.build("pixels")
    tokens = backbone.tokenize(golden["input.images"], golden.mask().ids_keep)
    assert_same(backbone.encode(tokens), golden["expected.latent"])


@torch.no_grad()
def test_encoder_on_all_patches(golden: Golden) -> None:
    backbone, _ = golden.build("pixels")
    encoded = backbone.encode(backbone.tokenize(golden["input.images"]))
    assert_same(encoded, golden["expected.features"])
    assert_same(backbone.features(golden["input.images"]), golden["expected.features"][:, 0])


@torch.no_grad()
def test_decoder_at_hidden_patches(golden: Golden) -> None:
    _, branch = golden.build("pixels")
    mask = golden.mask()
    prediction = branch.decode(golden["expected.latent"], mask)
    assert_same(prediction, gather_patches(golden["expected.pred"], mask.ids_hide))


@pytest.mark.parametrize(("target", "loss", "gradients"), LOSSES, ids=[t for t, _, _ in LOSSES])
def test_loss_and_gradients(golden: Golden, target: str, loss: str, gradients: str) -> None:
    backbone, branch = golden.build(target)
    ours = branch(backbone, golden["input.images"], golden["input.noise"])
    assert ours.item() == pytest.approx(golden[f"expected.{loss}"].item(), rel=1e-6)
    ours.backward()
    expected = golden.under(f"expected.{gradients}.")
    assert len(expected) == 3  # of an encoder block, the patch embedding and the mask token
    parameters = dict(backbone.vit.named_parameters()) | dict(branch.named_parameters())
    for name, gradient in expected.items():
        found = parameters[name].grad
        assert found is not None, name
        assert_same(found, gradient)
