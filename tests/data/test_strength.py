"""RandAugment's magnitudes and color jitter, against timm's and torchvision's."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_sample_images
from support import REPO
from timm.data import auto_augment
from torch import Tensor
from torchvision.transforms.v2 import functional

from semimae.data.augment import color_jitter
from semimae.data.image_ops import OPS
from semimae.data.randaugment import drawn_level, op_strength, rand_augment
from semimae.random import uniform

SIDE = 331
# Our operation, timm's of ``rand-...-inc1``, and what timm's argument is for ours.
PAIRS: dict[str, tuple[str, Any]] = {
    "ShearX": ("ShearX", lambda s: s),
    "ShearY": ("ShearY", lambda s: s),
    "TranslateX": ("TranslateXRel", lambda s: s / SIDE),
    "TranslateY": ("TranslateYRel", lambda s: s / SIDE),
    "Rotate": ("Rotate", lambda s: s),
    "Brightness": ("BrightnessIncreasing", lambda s: 1 + s),
    "Color": ("ColorIncreasing", lambda s: 1 + s),
    "Contrast": ("ContrastIncreasing", lambda s: 1 + s),
    "Sharpness": ("SharpnessIncreasing", lambda s: 1 + s),
    "Solarize": ("SolarizeIncreasing", lambda s: 256 * s),
}
WITHOUT_STRENGTH = {"AutoContrast", "Equalize"}
OTHERS = {"Posterize"}  # timm keeps 4 bits fewer


def strength(op: str, level: float) -> float:
    place = torch.tensor([OPS.index(op)])
    return op_strength(place, torch.tensor([float(level)]), SIDE, SIDE).item()


def timm_range(op: str, level: float) -> tuple[float, float]:
    """Return the smallest and the largest argument that timm's operation draws at a level of 10."""
    function = auto_augment.LEVEL_TO_ARG[op]
    values = [function(level, {})[0] for _ in range(60)]
    return min(values), max(values)


@pytest.mark.parametrize("op", PAIRS)
@pytest.mark.parametrize("level", [0, 2.5, 5, 9, 10])
def test_an_operation_has_the_range_of_timm_s_at_the_same_strength(op: str, level: float) -> None:
    """Up to rounding, 1% of a translation, and timm's floor of 0.1 for factors."""
    name, argument = PAIRS[op]
    low, high = timm_range(name, level)
    ours = strength(op, 3 * level)
    if op == "Solarize":
        assert argument(ours) == pytest.approx(high, abs=1.01)
        return
    assert argument(ours) == pytest.approx(high, rel=0.01, abs=1e-6)
    assert argument(-ours) == pytest.approx(low, rel=0.01, abs=1e-6)


def test_posterize_keeps_four_bits_more_than_timm_s() -> None:
    for level in (0, 5, 10):
        assert strength("Posterize", 3 * level) == timm_range("PosterizeIncreasing", level)[0] + 4


def test_the_page_names_every_operation_that_only_one_of_the_two_has_or_does_otherwise() -> None:
    theirs = set(auto_augment._RAND_INCREASING_TRANSFORMS)
    matched = {name for name, _ in PAIRS.values()} | WITHOUT_STRENGTH
    only_theirs = theirs - matched - {f"{op}Increasing" for op in OTHERS}
    only_ours = set(OPS) - PAIRS.keys() - WITHOUT_STRENGTH - OTHERS
    page = (REPO / "docs/method.md").read_text()
    section = page.partition("## RandAugment's scale")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert only_theirs == {"Invert", "SolarizeAdd"}
    assert only_ours == {"Identity"}
    assert only_theirs | only_ours | OTHERS <= named


def test_recipes_state_the_strength_of_their_source() -> None:
    """A header that names timm's policy goes with its magnitude on our scale."""
    from pipeline.overlay import read

    found = 0
    for path in sorted((REPO / "recipes").glob("imagenet_*.yaml")):
        data = read(path).data
        assert data.randaugment_magnitude == 3 * 9, path
        assert data.randaugment_magnitude_std == 3 * 0.5, path
        assert data.randaugment_probability == 0.5, path
        found += 1
    assert found == 7


# --- magnitudes


def test_a_strength_between_two_levels_is_in_proportion() -> None:
    for op in set(OPS) - {"Posterize"}:
        low, high = strength(op, 12), strength(op, 13)
        assert strength(op, 12.25) == pytest.approx(low + 0.25 * (high - low), rel=1e-5)


def test_magnitudes_are_normal_and_stay_on_the_scale() -> None:
    draws = uniform((5000,), "levels")
    levels = drawn_level(draws, 20, 3.0)
    assert stats.kstest(levels.numpy(), "norm", (20, 3)).pvalue > 0.01
    wide = drawn_level(torch.cat([draws, torch.tensor([0.0, 1 - 2**-24])]), 27, 30.0)
    assert wide.min() == 0
    assert wide.max() == 30
    assert torch.equal(drawn_level(draws, 20, 0.0), torch.full((5000,), 20.0))


def test_uniform_magnitudes_reach_from_zero_to_the_given_one() -> None:
    levels = drawn_level(uniform((5000,), "levels"), 27, "uniform")
    assert stats.kstest(levels.numpy() / 27, "uniform").pvalue > 0.01


def test_an_operation_is_applied_with_its_probability() -> None:
    images = photos(400, 3)
    draws = uniform((400, 1, 4), "operations")
    draws[:, :, 0] = (OPS.index("Solarize") + 0.5) / len(OPS)
    changed = rand_augment(images, draws, 27, probability=0.3) != images
    share = changed.flatten(1).any(dim=1).double().mean().item()
    assert share == pytest.approx((draws[:, 0, 3] < 0.3).double().mean().item())
    assert not (rand_augment(images, draws, 27, probability=0.0) != images).any()


def test_each_image_has_its_own_magnitude() -> None:
    images = photos(64, 3)
    draws = uniform((64, 2, 4), "operations")
    whole = rand_augment(images, draws, 20, 5.0, 0.8)
    for i in range(64):
        level = float(np.clip(20 + 5 * stats.norm.ppf(draws[i, 0, 2]), 0, 30))
        assert drawn_level(draws[i, 0, 2], 20, 5.0).item() == pytest.approx(level, rel=1e-4)
        alone = rand_augment(images[i : i + 1], draws[i : i + 1], 20, 5.0, 0.8)
        assert torch.equal(alone[0], whole[i])


# --- color jitter


def photos(count: int, channels: int) -> Tensor:
    whole = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)
    corners = np.random.default_rng(0).integers(0, 390, (count, 2)).tolist()
    return torch.stack([whole[:channels, y : y + 24, x : x + 24] for y, x in corners])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_color_jitter_is_torchvision_s_in_the_drawn_order(strength: float, channels: int) -> None:
    images, draws = photos(60, channels), uniform((60, 4), "jitter")
    ours = color_jitter(images, draws, strength)
    changes = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    ]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    seen = set()
    for image, mine, (order, *factors) in zip(images, ours, draws.tolist(), strict=True):
        expected = image
        seen.add(math.floor(order * 6))
        for change in orders[math.floor(order * 6)]:
            factor = 1 - strength + 2 * strength * factors[change]
            expected = changes[change](expected, factor)
        assert (mine.int() - expected.int()).abs().max() <= 4  # bytes are rounded down thrice
    assert seen == set(range(6))
    assert (ours != images).double().mean() > 0.5
    assert torch.equal(color_jitter(images, draws, 0.0), images)
