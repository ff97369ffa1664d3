import pytest
import torch
from pydantic import ValidationError
from support import section
from torch import Tensor

from semimae.backbones.vit import ViT
from semimae.mim.mae import MAE
from semimae.mim.masking import Mask, random_masking
from semimae.model import build_backbone, build_branch
from semimae.options.mim import Masked
from semimae.patches import gather_patches, patchify
from semimae.positions import sincos_position_embedding


def build(
    num_registers: int = 0, ratio: float = 0.75, channels: int = 3, **changes: object
) -> tuple[ViT, MAE]:
    vit = section("backbone", num_registers=num_registers, mlp_ratio=2.0)
    config = {"target": "norm_pixels", "decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
    mae = section("mim", **(config | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone(vit, 8, channels, 4)
        assert isinstance(backbone, ViT)
        branch = build_branch(Masked(mask_ratio=ratio, branch=mae), backbone)
        assert isinstance(branch, MAE)
        return backbone, branch


def draw(channels: int = 3) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    images = torch.randn(3, channels, 8, 8, generator=source)
    return images, torch.rand(3, 16, generator=source)


@pytest.mark.parametrize("target", ["pixels", "norm_pixels"])
def test_loss_is_the_mean_squared_error_at_hidden_patches(target: str) -> None:
    backbone, mae = build(target=target)
    images, noise = draw()
    prediction, mask = mae.reconstruct(backbone, images, noise)
    total, count = 0.0, 0
    for n in range(3):
        for k, patch in enumerate(mask.ids_hide[n].tolist()):
            row, column = divmod(patch, 4)
            pixels = images[n, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            wanted = pixels.permute(1, 2, 0).flatten()
            if target == "norm_pixels":
                wanted = (wanted - wanted.mean()) / (wanted.var(unbiased=True) + 1e-6) ** 0.5
            total += (prediction[n, k] - wanted).square().sum().item()
            count += len(wanted)
    assert count == 3 * 12 * 12
    assert mae(backbone, images, noise).item() == pytest.approx(total / count, rel=1e-5)


def test_the_prediction_does_not_see_the_hidden_pixels() -> None:
    backbone, mae = build()
    images, noise = draw()
    prediction, mask = mae.reconstruct(backbone, images, noise)
    patches = patchify(images, 2)
    hidden = torch.zeros(3, 16, 1).scatter(1, mask.ids_hide.unsqueeze(-1), 1.0)
    changed = _image(patches + 5 * hidden)
    torch.testing.assert_close(mae.reconstruct(backbone, changed, noise)[0], prediction)
    other = _image(patches + 5 * (1 - hidden))
    assert not torch.allclose(mae.reconstruct(backbone, other, noise)[0], prediction, atol=1e-3)


def _image(patches: Tensor) -> Tensor:
    x = patches.reshape(3, 4, 4, 2, 2, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(3, 3, 8, 8)


def test_a_prediction_depends_on_where_its_patch_is() -> None:
    backbone, mae = build()
    prediction, _ = mae.reconstruct(backbone, *draw())
    assert len(prediction[0].detach().round(decimals=4).unique(dim=0)) == 12


def test_decoding_in_the_mask_order_equals_decoding_in_place() -> None:
    """The published decoder moves the tokens back first; attention makes no difference."""
    backbone, mae = build(num_registers=2)
    images, noise = draw()
    mask = random_masking(noise, 0.75)
    latent = backbone.encode(backbone.tokenize(images, mask.ids_keep))
    prediction = mae.decode(latent, mask)

    embedded = mae.decoder_embed(latent)
    prefix, visible = embedded[:, :3], embedded[:, 3:]
    grid = mae.mask_token.repeat(3, 16, 1)
    for n in range(3):
        grid[n, mask.ids_keep[n]] = visible[n]
    grid = grid + sincos_position_embedding(16, 4).float()
    x = torch.cat([prefix, grid], dim=1)
    for block in mae.decoder_blocks:
        x = block(x)
    in_place = mae.decoder_pred(mae.decoder_norm(x))[:, 3:]
    expected = torch.stack([in_place[n, mask.ids_hide[n]] for n in range(3)])
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_registers", [0, 3])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_shapes(channels: int, num_registers: int, ratio: float) -> None:
    backbone, mae = build(num_registers, ratio, channels)
    prediction, mask = mae.reconstruct(backbone, *draw(channels))
    assert prediction.shape == (3, round(16 * ratio), 4 * channels)
    assert mask.ids_keep.shape == (3, 16 - round(16 * ratio))


def test_gradient_reaches_branch_and_encoder_but_not_the_classifier() -> None:
    backbone, mae = build()
    mae(backbone, *draw()).backward()
    assert {n for n, p in mae.named_parameters() if p.grad is None} == set()
    without = {n for n, p in backbone.named_parameters() if p.grad is None}
    assert without == {"vit.head.weight", "vit.head.bias", "vit.pos_embed"}


def test_the_loss_can_be_learned() -> None:
    backbone, mae = build()
    images, noise = draw()
    optimizer = torch.optim.Adam([*backbone.parameters(), *mae.parameters()], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = mae(backbone, images, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_it_draws_nothing_itself() -> None:
    backbone, mae = build()
    images, noise = draw()
    before = torch.get_rng_state()
    first, second = mae(backbone, images, noise), mae(backbone, images, noise)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(mae(backbone, images, noise.flip(1)), first)


def test_the_mask_is_the_noise_s() -> None:
    backbone, mae = build()
    images, noise = draw()
    _, mask = mae.reconstruct(backbone, images, noise)
    assert all(torch.equal(a, b) for a, b in zip(mask, random_masking(noise, 0.75), strict=True))
    target = gather_patches(patchify(images, 2), Mask(*mask).ids_hide)
    assert target.shape == (3, 12, 12)


@pytest.mark.parametrize(("dim", "heads"), [(18, 2), (16, 3), (6, 6)])
def test_decoder_sizes_that_do_not_fit_are_refused(dim: int, heads: int) -> None:
    message = rf"decoder_dim={dim} must be a multiple of 4 and of decoder_heads={heads}"
    with pytest.raises(ValidationError, match=message):
        build(decoder_dim=dim, decoder_heads=heads)
