import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import data_config
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode, RandAugment, functional

from semimae.data import augment, image_ops
from semimae.data.augment import num_draws, strong_view, weak_view
from semimae.data.image_ops import OPS, apply_op
from semimae.data.randaugment import op_strength, rand_augment
from semimae.options.data import DataConfig

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.gz"
SPACE = RandAugment._AUGMENTATION_SPACE
GEOMETRIC = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
LEVELS = (0, 3, 4, 9, 10, 17, 20, 30)
LARGEST_DRAW = 1 - 2**-24  # the largest that torch.rand returns


def config(**changes: Any) -> DataConfig:
    values: dict[str, Any] = {
        "image_size": 32,
        "test_fraction": 0.2,
        "val_fraction": 0.1,
        "crop_padding": 4,
        "crop_min_scale": 0.5,
        "hflip": True,
        "randaugment_magnitude": 10,
        "cutout": 0.5,
        "workers": 0,
        "decode": "auto",
    }
    return data_config(**(values | changes))


@cache
def photos() -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images)


def photo_crops(number: int, channels: int, height: int, width: int) -> Tensor:
    """Regions of scikit-learn's two photographs, uint8 [number, channels, H, W]."""
    corners = np.random.default_rng(0).random((number, 2)) * (427 - height, 640 - width)
    crops = [
        photos()[i % 2][:channels, y : y + height, x : x + width]
        for i, (y, x) in enumerate(corners.astype(int))
    ]
    return torch.stack(crops)


def digits(number: int) -> Tensor:
    gray = load_digits().images[:number, None]  # [number, 1, 8, 8], 0 to 16
    return torch.from_numpy(gray * 255 / 16).round().to(torch.uint8)


def cifar(number: int) -> Tensor:
    if not CIFAR.exists():
        pytest.skip(f"needs {CIFAR}")
    images: list[np.ndarray] = []
    with tarfile.open(CIFAR) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if file is not None:
                images.append(np.asarray(Image.open(file).convert("RGB")))
            if len(images) == number:
                break
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


SOURCES = {
    "cifar 32x32x3": cache(lambda: cifar(16)),
    "digits 8x8x1": cache(lambda: digits(16)),
    "photos 8x8x3": cache(lambda: photo_crops(16, 3, 8, 8)),
    "photos 32x32x1": cache(lambda: photo_crops(16, 1, 32, 32)),
    "photos 24x40x3": cache(lambda: photo_crops(16, 3, 24, 40)),
    "photos 224x224x3": cache(lambda: photo_crops(16, 3, 224, 224)),
    "photos 27x18x1": cache(lambda: photo_crops(16, 1, 27, 18)),
}


def torchvision_op(image: Tensor, op: str, magnitude: float) -> Tensor:
    """What torchvision's RandAugment makes of one image [C, H, W]."""
    return RandAugment()._apply_image_or_video_transform(
        image, op, magnitude, InterpolationMode.NEAREST, {Tensor: None}
    )


def op_magnitude(op: str, level: float, height: int, width: int) -> float:
    place = torch.tensor([OPS.index(op)])
    return op_strength(place, torch.tensor([float(level)]), height, width).item()


# RandAugment


def test_operations_are_those_of_torchvision() -> None:
    assert set(OPS) == set(SPACE)
    assert len(OPS) == 14


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (24, 40), (224, 224)])
def test_magnitudes_are_those_of_torchvision(op: str, height: int, width: int) -> None:
    magnitudes, signed = SPACE[op]
    expected = magnitudes(31, height, width)
    expected = [0.0] * 31 if expected is None else expected.tolist()
    assert [op_magnitude(op, level, height, width) for level in range(31)] == expected

    # The sign is drawn for the operations that have one, and for no others.
    images = photo_crops(2, 3, height, width)
    which = (OPS.index(op) + 0.5) / len(OPS)
    draws = torch.tensor([[[which, 0.49, 0.0, 0.0]], [[which, 0.5, 0.0, 0.0]]])
    strength = torch.tensor([-expected[10] if signed else expected[10], expected[10]])
    assert torch.equal(rand_augment(images, draws, 10), apply_op(images, op, strength))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("source", SOURCES)
def test_operation_agrees_with_torchvision(op: str, source: str) -> None:
    images = SOURCES[source]()
    height, width = images.shape[-2:]
    signs = (1, -1) if SPACE[op][1] else (1, 1)
    magnitudes = [op_magnitude(op, level, height, width) * s for level in LEVELS for s in signs]

    ours = apply_op(images, op, torch.tensor(magnitudes))  # another magnitude for each image
    expected = torch.stack(
        [torchvision_op(i, op, m) for i, m in zip(images, magnitudes, strict=True)]
    )

    assert ours.dtype == torch.uint8
    difference = (ours.int() - expected.int()).abs()
    if op not in GEOMETRIC:
        assert difference.max() <= 1  # float sums in another order, then rounded down
        assert (difference > 0).double().mean() < 0.03
    elif {height, width} <= {8, 32}:
        assert difference.max() == 0
    else:
        # Where the source lies midway between two pixels, the last bit of a float decides. In
        # torchvision that bit comes out of a matrix product, and where a side is no power of two
        # it may differ from ours.
        assert (difference > 0).double().mean() < 0.005


@pytest.mark.parametrize("op", sorted(set(OPS) - {"Identity"}))
def test_operation_changes_photographs(op: str) -> None:
    images = photo_crops(4, 3, 32, 32)
    magnitude = torch.full((4,), op_magnitude(op, 20, 32, 32))
    changed = (apply_op(images, op, magnitude) != images).double().mean()
    assert changed > 0.1


def test_every_operation_has_the_same_share_of_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, int] = {}

    def count(images: Tensor, op: str, magnitude: Tensor) -> Tensor:
        drawn[op] = len(images)
        return images

    monkeypatch.setattr(image_ops, "apply_op", count)
    which = (torch.arange(14 * 50) + 0.5) / (14 * 50)
    draws = nn.functional.pad(which[:, None, None], (0, 3))
    rand_augment(torch.zeros(14 * 50, 1, 4, 4, dtype=torch.uint8), draws, 10)
    assert drawn == dict.fromkeys(OPS, 50)


def test_rand_augment_applies_the_drawn_operations_in_turn() -> None:
    images = photo_crops(60, 3, 24, 40)
    draws = torch.rand(60, 3, 4, generator=torch.Generator().manual_seed(0))
    draws[0] = LARGEST_DRAW
    draws[1] = 0.0
    expected = []
    for image, rows in zip(images, draws.tolist(), strict=True):
        result = image[None]
        for which, sign, _, _ in rows:
            op = OPS[int(which * 14)]
            magnitude = op_magnitude(op, 12, 24, 40) * (-1 if SPACE[op][1] and sign < 0.5 else 1)
            result = apply_op(result, op, torch.tensor([magnitude]))
        expected.append(result)
    assert torch.equal(rand_augment(images, draws, 12), torch.cat(expected))


def test_wrong_operations_images_and_magnitudes_are_refused() -> None:
    images = photo_crops(1, 3, 8, 8)
    with pytest.raises(ValueError, match="no operation 'Blur'; allowed: Identity, ShearX"):
        apply_op(images, "Blur", torch.zeros(1))
    with pytest.raises(ValueError, match=r"images are torch\.float32; allowed: torch\.uint8"):
        apply_op(images.float(), "Rotate", torch.zeros(1))
    with pytest.raises(ValueError, match=r"magnitude=31 .* allowed: 0 to 30"):
        rand_augment(images, torch.rand(1, 1, 4), 31)


# Shift, mirror, cutout, normalization


@pytest.mark.parametrize("padding", [0, 1, 3, 7])
def test_pad_crop_agrees_with_torchvision(padding: int) -> None:
    places = 2 * padding + 1  # in each direction; draws in the middle of each one's share
    index = torch.cartesian_prod(torch.arange(places), torch.arange(places))
    draws = (index + 0.5) / places
    images = photo_crops(places**2, 3, 8, 12)
    expected = [
        functional.crop(functional.pad(image, [padding], padding_mode="reflect"), top, left, 8, 12)
        for image, (top, left) in zip(images, index.tolist(), strict=True)
    ]
    assert torch.equal(augment.pad_crop(images, draws, padding), torch.stack(expected))


def test_pad_crop_at_the_ends_of_the_draws() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(2, 1, 8, 8)
    low, high = augment.pad_crop(images, torch.tensor([[0.0, 0.0], [LARGEST_DRAW] * 2]), 2)
    assert low[0, 2, 2] == images[0, 0, 0, 0]
    assert high[0, 5, 5] == images[0, 0, 7, 7]


def test_pad_crop_refuses_more_than_it_can_reflect() -> None:
    with pytest.raises(ValueError, match=r"crop_padding=8 .* 8x12; allowed: 0 to 7"):
        augment.pad_crop(photo_crops(1, 3, 8, 12), torch.rand(1, 2), 8)


def test_hflip_mirrors_where_the_draw_is_below_one_half() -> None:
    images = photo_crops(4, 3, 8, 12)
    flipped = augment.hflip(images, torch.tensor([0.0, 0.49, 0.5, LARGEST_DRAW]))
    expected = torch.cat([functional.horizontal_flip(images[:2]), images[2:]])
    assert torch.equal(flipped, expected)
    assert not torch.equal(flipped[:2], images[:2])


@pytest.mark.parametrize("max_share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (8, 8)])
def test_cutout_erases_a_clipped_square(max_share: float, height: int, width: int) -> None:
    images = photo_crops(40, 3, height, width).clamp(max=100)  # nothing is 127 yet
    draws = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    expected = images.clone()
    for image, (size, down, right) in zip(expected, draws.double().tolist(), strict=True):
        side = round(size * max_share * min(height, width))
        top, left = round(down * height - side / 2), round(right * width - side / 2)
        for y in range(max(top, 0), min(top + side, height)):
            for x in range(max(left, 0), min(left + side, width)):
                image[:, y, x] = 127
    assert torch.equal(augment.cutout(images, draws, max_share, 127), expected)


def test_cutout_in_the_middle_has_the_drawn_area_and_in_a_corner_a_quarter() -> None:
    images = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    draws = torch.tensor([[0.5, 0.5, 0.5], [LARGEST_DRAW, 0.5, 0.5], [LARGEST_DRAW, 0.0, 0.0]])
    erased = augment.cutout(images, draws, 0.5, 9) == 9
    assert erased.sum(dim=(1, 2, 3)).tolist() == [8 * 8, 16 * 16, 8 * 8]
    assert erased[2, 0, :8, :8].all()


@pytest.mark.parametrize("channels", [1, 3])
def test_to_float_agrees_with_torchvision(channels: int) -> None:
    images = photo_crops(4, channels, 8, 12)
    mean, std = [0.49, 0.48, 0.45][:channels], [0.25, 0.24, 0.26][:channels]
    expected = functional.normalize(functional.to_dtype(images, scale=True), mean, std)
    torch.testing.assert_close(augment.to_float(images, mean, std), expected)


def test_to_float_wants_one_value_per_channel() -> None:
    with pytest.raises(ValueError, match="mean has 3 and std 3 values; needed: 1, one per channel"):
        augment.to_float(digits(2), (0.5,) * 3, (0.5,) * 3)


# Views


def strong_draws(number: int, options: DataConfig) -> Tensor:
    shape = number, num_draws(options, strong=True)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 32, 32), (5, 3, 24, 40), (0, 3, 32, 32)])
def test_views_keep_shape_and_type(shape: tuple[int, int, int, int]) -> None:
    images = photo_crops(5, *shape[1:])[: shape[0]]
    options = config()
    draws = strong_draws(len(images), options)
    for view in (
        weak_view(images, draws[:, : num_draws(options, strong=False)], options),
        strong_view(images, draws, options),
    ):
        assert view.shape == shape
        assert view.dtype == torch.uint8


NOTHING = {"crop_padding": 0, "hflip": False, "randaugment_ops": 0, "cutout": 0.0}


@pytest.mark.parametrize("changes", [{}, {"crop": "resized", "crop_padding": 4}])
def test_views_with_all_options_off_are_the_images(changes: dict[str, Any]) -> None:
    images, options = photo_crops(8, 3, 32, 32), config(**NOTHING | changes)
    weak_draws = strong_draws(8, options)[:, : num_draws(options, strong=False)]
    assert torch.equal(weak_view(images, weak_draws, options), images)
    assert torch.equal(strong_view(images, strong_draws(8, options), options), images)


@pytest.mark.parametrize(
    ("option", "in_weak"),
    [
        ({"crop_padding": 4}, True),
        ({"hflip": True}, True),
        ({"randaugment_ops": 1}, False),
        ({"cutout": 1.0}, False),
    ],
)
def test_each_option_changes_the_views_it_belongs_to(option: dict[str, Any], in_weak: bool) -> None:
    images, options = photo_crops(32, 3, 32, 32), config(**NOTHING | option)
    draws = strong_draws(32, options)
    weak = weak_view(images, draws[:, : num_draws(options, strong=False)], options)
    assert torch.equal(weak, images) is not in_weak
    assert not torch.equal(strong_view(images, draws, options), images)


def test_strong_view_is_geometry_then_randaugment_then_cutout() -> None:
    images, options = photo_crops(32, 3, 32, 32), config(randaugment_ops=3)
    draws = strong_draws(32, options)
    expected = weak_view(images, draws[:, :7], options)
    operations = torch.cat([draws[:, 6:12].view(32, 3, 2), draws[:, 16:].view(32, 3, 2)], dim=2)
    expected = rand_augment(expected, operations, 10)
    expected = augment.cutout(expected, draws[:, 3:6], 0.5, 127)
    assert torch.equal(strong_view(images, draws, options), expected)


@pytest.mark.parametrize("source", ["digits 8x8x1", "photos 24x40x3", "photos 27x18x1"])
def test_a_view_depends_on_its_own_image_and_draws_only(source: str) -> None:
    images, options = SOURCES[source]().repeat(6, 1, 1, 1), config()
    draws = strong_draws(len(images), options)
    views = strong_view(images, draws, options)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert torch.equal(strong_view(images[shuffled], draws[shuffled], options), views[shuffled])
    alone = [
        strong_view(i[None], d[None], options) for i, d in zip(images[:32], draws[:32], strict=True)
    ]
    assert torch.equal(torch.cat(alone), views[:32])


def test_views_are_pure() -> None:
    images, options = photo_crops(56, 3, 32, 32), config()
    draws = strong_draws(56, options)
    before = [t.clone() for t in (images, draws, torch.get_rng_state())]
    first, second = strong_view(images, draws, options), strong_view(images, draws, options)
    assert torch.equal(first, second)
    after = images, draws, torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_views_refuse_draws_of_another_shape() -> None:
    images, options = photo_crops(4, 3, 32, 32), config()
    with pytest.raises(ValueError, match=r"draws are \[4, 9\]; needed: \[4, 18\]"):
        strong_view(images, torch.rand(4, 9), options)
    with pytest.raises(ValueError, match=r"draws are \[1, 3\]; needed: \[4, 7\]"):
        weak_view(images, torch.rand(1, 3), options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_views_on_the_gpu_agree_with_the_cpu_and_never_wait_for_it() -> None:
    images, options = photo_crops(256, 3, 32, 32), config(randaugment_ops=1)
    draws, on_gpu = strong_draws(256, options), images.cuda()
    strong_view(on_gpu, draws, options)  # loads the kernels, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = strong_view(on_gpu, draws, options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (views.cpu().int() - strong_view(images, draws, options).int()).abs()
    assert (difference > 1).double().mean() < 0.005  # midway between two pixels
