import pytest
import torch
from small_models import mae
from torch import Tensor

from semimae.mim.masking import Mask, make_mask, random_masking, smooth


def noise(side: int, batch: int = 64) -> Tensor:
    return torch.rand(batch, side * side, generator=torch.Generator().manual_seed(0))


def as_grid(mask: Mask, side: int) -> Tensor:
    """Whether a patch is hidden: ``[B, side, side]``."""
    hidden = torch.zeros(len(mask.ids_hide), side * side).scatter(1, mask.ids_hide, 1.0)
    return hidden.reshape(-1, side, side).bool()


def agreement(grid: Tensor) -> float:
    """Share of neighboring patches that are both hidden or both visible."""
    pairs = [grid[:, 1:] == grid[:, :-1], grid[:, :, 1:] == grid[:, :, :-1]]
    return torch.cat([pair.flatten() for pair in pairs]).double().mean().item()


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.75, 0.9])
@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize("masking", ["random", "block"])
@pytest.mark.parametrize("side", [12, 14, 16])
def test_every_image_hides_the_same_number(
    side: int, masking: str, unit: int, ratio: float
) -> None:
    mask = make_mask(noise(side), ratio, mae(masking=masking, mask_unit=unit))
    hidden = round((side // unit) ** 2 * ratio) * unit**2
    assert mask.ids_hide.shape == (64, hidden)
    everything = torch.cat(mask, dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(side * side).expand(64, -1))


def test_random_masking_is_what_it_was() -> None:
    ours, plain = make_mask(noise(12), 0.75, mae()), random_masking(noise(12), 0.75)
    assert torch.equal(ours.ids_keep, plain.ids_keep)
    assert torch.equal(ours.ids_hide, plain.ids_hide)


@pytest.mark.parametrize("masking", ["random", "block"])
def test_units_are_hidden_as_a_whole(masking: str) -> None:
    grid = as_grid(make_mask(noise(16), 0.5, mae(masking=masking, mask_unit=2)), 16)
    units = grid.reshape(64, 8, 2, 8, 2).float().mean(dim=(2, 4))
    assert set(units.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("side", [6, 8, 14])
def test_blocks_are_connected(side: int) -> None:
    block = as_grid(make_mask(noise(side), 0.5, mae(masking="block")), side)
    random = as_grid(make_mask(noise(side), 0.5, mae()), side)
    assert agreement(random) == pytest.approx(0.5, abs=0.05)
    assert agreement(block) > 0.65


def test_every_patch_is_equally_likely_to_be_hidden() -> None:
    grid = as_grid(make_mask(noise(8, 4000), 0.4, mae(masking="block")), 8)
    share = grid.float().mean(dim=0)
    assert share.min() > 0.35
    assert share.max() < 0.45


def test_the_mask_is_a_function_of_the_noise_of_its_image() -> None:
    options = mae(masking="block")
    together, again = (make_mask(noise(8), 0.5, options) for _ in range(2))
    alone = make_mask(noise(8)[5:6], 0.5, options)
    assert torch.equal(together.ids_hide, again.ids_hide)
    assert torch.equal(together.ids_hide[5:6], alone.ids_hide)
    assert not torch.equal(together.ids_hide[5], together.ids_hide[6])


def test_smoothing_is_a_mean_over_wrapped_neighbors() -> None:
    x = noise(8, 1)
    grid = x.reshape(8, 8).tolist()
    for row, column in [(0, 0), (3, 4), (7, 2)]:
        around = [grid[(row + i) % 8][(column + j) % 8] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        ours = smooth(x).reshape(8, 8)[row, column].item()
        assert ours == pytest.approx(sum(around) / 9, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_unit": 5}, r"mim\.mask_unit=5 does not divide the 8 patches"),
        ({"masking": "block", "mask_unit": 2}, r"mim\.masking=block needs 6 .* there are 4"),
        ({"mask_unit": 8}, r"mask_ratio=0\.5 hides 0 of 1 patches"),
    ],
)
def test_grids_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mae(**changes).check_patches(8, 12, 0.5)
