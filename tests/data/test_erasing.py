"""Random erasing against timm's on equal draws."""

import itertools

import pytest
import timm.data.random_erasing
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from semimae.data.erasing import ERASING_DRAWS, erase, erased
from semimae.random import normal, uniform

SIZES = [(8, 8), (32, 32), (24, 40), (5, 90), (224, 224)]
COUNT = 60


class Given:
    """Stands for the module ``random`` and hands out the draws of one image."""

    def __init__(self, draws: list[float]) -> None:
        self.whether, self.top, self.left, *rest = draws
        self.rest = iter(rest)
        self.places = iter((self.top, self.left))

    def random(self) -> float:
        return self.whether

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self.rest)

    def randint(self, low: int, high: int) -> int:
        return low + int(next(self.places) * (high - low + 1))


def noise(place: int, number: int) -> Tensor:
    return normal((number,), "noise", place)


@pytest.mark.parametrize("fill", ["mean", "noise"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_erases_what_timm_erases(
    channels: int, size: tuple[int, int], fill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = normal((COUNT, channels, *size), "images")
    draws = uniform((COUNT, ERASING_DRAWS), "draws", *size)
    ours = erase(images, draws, 0.6, noise if fill == "noise" else None)

    mode = {"mean": "const", "noise": "pixel"}[fill]
    theirs = RandomErasing(probability=0.6, mode=mode, device="cpu")
    expected = images.clone()
    for i, image in enumerate(expected):
        monkeypatch.setattr(timm.data.random_erasing, "random", Given(draws[i].tolist()))
        if fill == "noise":
            monkeypatch.setattr(
                timm.data.random_erasing,
                "_get_pixels",
                lambda *a, i=i, **k: noise(i, a[2][0] * a[2][1] * a[2][2]).view(a[2]),
            )
        theirs(image)
    assert torch.equal(ours, expected)
    changed = (ours != images).flatten(1).any(dim=1)
    assert 0.4 < changed.double().mean() < 0.8


def test_some_images_need_more_than_one_attempt() -> None:
    """So that the comparison above covers it, and an image that no rectangle fits."""
    draws = uniform((2000, ERASING_DRAWS), "draws")
    bounds = erased(draws, 1.0, 5, 90)
    assert (bounds[:, 1] == 0).any()
    first_only = torch.cat([draws[:, :5], draws[:, 3:5].repeat(1, 9)], dim=1)
    assert (erased(first_only, 1.0, 5, 90) != bounds).any()


def test_never_and_always() -> None:
    images = normal((40, 3, 16, 16), "images")
    draws = uniform((40, ERASING_DRAWS), "draws")
    assert torch.equal(erase(images, draws, 0.0, noise), images)
    draws[:, 0] = 1 - 2**-24
    always = erase(images, draws, 1.0, None)
    assert all(bool((a == 0).any()) for a in always)
    for value, place in itertools.product((0.0, 1 - 2**-24), range(1, ERASING_DRAWS)):
        draws[:, place] = value
        top, bottom, left, right = erased(draws, 1.0, 16, 16).unbind(dim=1)
        assert ((top >= 0) & (bottom <= 16) & (left >= 0) & (right <= 16)).all()


def test_an_image_keeps_its_rectangle_in_any_batch() -> None:
    images = normal((20, 3, 16, 16), "images")
    draws = uniform((20, ERASING_DRAWS), "draws")
    whole = erase(images, draws, 0.7, noise)
    part = erase(images[5:9], draws[5:9], 0.7, lambda place, number: noise(place + 5, number))
    assert torch.equal(part, whole[5:9])
    assert erase(images[:0], draws[:0], 0.7, noise).shape == (0, 3, 16, 16)
