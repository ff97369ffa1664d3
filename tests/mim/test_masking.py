from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from semimae.mim.masking import random_masking
from semimae.patches import num_hidden

lengths = st.integers(2, 64)
ratios = st.floats(0.01, 0.99)


def draw_noise(batch: int, length: int, seed: int) -> torch.Tensor:
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed))


@given(lengths, ratios)
def test_the_hidden_count_is_the_nearest_whole_number(length: int, ratio: float) -> None:
    exact = Fraction(ratio) * length
    nearest = [
        n for n in range(length + 1) if abs(n - exact) <= Fraction(1, 2) + Fraction(1, 10**9)
    ]
    if set(nearest) <= {0, length}:
        with pytest.raises(ValueError, match=r"hides \d+ of \d+ patches"):
            num_hidden(length, ratio)
    elif {0, length}.isdisjoint(nearest):
        assert num_hidden(length, ratio) in nearest


@pytest.mark.parametrize(
    ("length", "ratio", "hidden"),
    [(20, 0.8, 16), (10, 0.9, 9), (196, 0.75, 147), (9, 0.75, 7), (64, 0.5, 32)],
)
def test_hidden_counts_where_cutting_off_the_kept_count_goes_wrong(
    length: int, ratio: float, hidden: int
) -> None:
    assert num_hidden(length, ratio) == hidden


@given(lengths, ratios, st.integers(1, 4), st.integers(0, 2**31))
def test_the_smallest_noise_is_kept(length: int, ratio: float, batch: int, seed: int) -> None:
    hidden = round(length * ratio)
    assume(0 < hidden < length)
    noise = draw_noise(batch, length, seed)
    mask = random_masking(noise, ratio)
    assert mask.ids_hide.shape == (batch, hidden)
    for row, keep, hide in zip(noise.tolist(), *(ids.tolist() for ids in mask), strict=True):
        assert sorted(keep + hide) == list(range(length))
        assert max(row[i] for i in keep) <= min(row[i] for i in hide)


def test_images_are_masked_independently() -> None:
    noise = draw_noise(3, 16, 0)
    mask = random_masking(noise, 0.5)
    alone = random_masking(noise[1:2], 0.5)
    assert torch.equal(mask.ids_keep[1:2], alone.ids_keep)
    assert len({tuple(sorted(row)) for row in mask.ids_keep.tolist()}) == 3


def test_each_patch_is_hidden_equally_often() -> None:
    mask = random_masking(draw_noise(20_000, 10, 1), 0.7)
    share = torch.bincount(mask.ids_hide.flatten(), minlength=10) / 20_000
    # five standard deviations of a share of 0.7 in 20,000 draws
    assert share.tolist() == pytest.approx([0.7] * 10, abs=5 * (0.21 / 20_000) ** 0.5)


@pytest.mark.parametrize(("ratio", "hidden"), [(0.01, 0), (0.99, 16)])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio: float, hidden: int) -> None:
    message = f"mask_ratio={ratio} hides {hidden} of 16 patches; at least one must be hidden"
    with pytest.raises(ValueError, match=message):
        random_masking(torch.rand(2, 16), ratio)
