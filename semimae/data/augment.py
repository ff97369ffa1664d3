"""Weak and strong views of a batch, made on the batch's device.

Every function is pure: image i of the result depends on image i and on row i of ``draws`` only.
``draws`` are uniform in [0, 1) and stay on the CPU, so that nothing here waits for the device.

Shapes: B images, C channels (1 or 3), H rows, W columns.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semimae.data.image_ops import OPS, apply_ops
from semimae.data.randaugment import rand_augment
from semimae.options.data import CellData

_GEOMETRY_DRAWS = 3  # shift down, shift right, mirror
_CUTOUT_DRAWS = 3  # side, center down, center right
_JITTER_DRAWS = 4  # order, brightness, contrast, saturation
_GRAY = 127
_JITTER = torch.tensor([OPS.index(op) for op in ("Brightness", "Contrast", "Color")])
_ORDERS = torch.tensor(list(itertools.permutations(range(3))))


def pad_crop(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Pad by reflection, then cut the original size out at a random place.

    Args:
        images: uint8 ``[B, C, H, W]``.
        draws: float32 CPU ``[B, 2]``: vertical and horizontal shift, each one of the
            ``2 * padding + 1`` whole pixels from ``-padding`` to ``padding``.
        padding: Pixels; less than H and W.

    Raises:
        ValueError: If the images are too small to be reflected that far.
    """
    height, width = images.shape[-2:]
    if padding >= min(height, width):
        raise ValueError(
            f"crop_padding={padding} cannot be reflected from images of {height}x{width}; "
            f"allowed: 0 to {min(height, width) - 1}."
        )
    if padding == 0:
        return images
    shift = (draws * (2 * padding + 1)).long() - padding  # [B, 2]
    down, right = shift.to(images.device, non_blocking=True).split(1, dim=1)  # [B, 1] each
    rows = _reflect(torch.arange(height, device=images.device) + down, height)  # [B, H]
    columns = _reflect(torch.arange(width, device=images.device) + right, width)  # [B, W]
    source = rows[:, :, None] * width + columns[:, None, :]  # [B, H, W]
    source = source.flatten(1)[:, None].expand(-1, images.shape[1], -1)  # [B, C, H * W]
    return images.flatten(2).gather(2, source).view_as(images)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices beyond 0 and ``size - 1`` at these two; neither is repeated."""
    last = size - 1
    return last - (last - index.abs()).abs()


def hflip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror an image left to right where its draw (float32 CPU ``[B]``) is below one half."""
    mirror = (draws < 0.5).to(images.device, non_blocking=True)
    return torch.where(mirror.view(-1, 1, 1, 1), images.flip(-1), images)


def cutout(images: Tensor, draws: Tensor, max_share: float, fill: int = _GRAY) -> Tensor:
    """Erase a square of random size at a random place.

    Args:
        images: uint8 ``[B, C, H, W]``.
        draws: float32 CPU ``[B, 3]``: side of the square, then its center down and right. The
            center may be any place in the image; what lies outside of the image is cut off.
        max_share: Largest side, as a share of the image's shorter side.
        fill: Gray level of the square.

    Source: FixMatch, arXiv:2001.07685, list of transformations: gray, side up to a share of the
    image's width.
    """
    if max_share == 0:
        return images
    height, width = images.shape[-2:]
    side = (draws[:, :1] * (max_share * min(height, width))).round()  # [B, 1]
    start = (draws[:, 1:] * torch.tensor([height, width]) - side / 2).round()  # [B, 2]
    bounds = torch.cat([start, start + side], dim=1).to(images.device, non_blocking=True)
    top, left, bottom, right = bounds[:, :, None].unbind(dim=1)  # [B, 1] each
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    rows = (row >= top) & (row < bottom)  # [B, H]
    columns = (column >= left) & (column < right)  # [B, W]
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], fill)


def color_jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation, in random order.

    Args:
        images: uint8 ``[B, C, H, W]``; of gray images the saturation stays as it is.
        draws: float32 CPU ``[B, 4]``: the order, then the factors of brightness, contrast and
            saturation, each from ``1 - strength`` (0 at least) to ``1 + strength``.
        strength: 0: the images come back as they are.

    Source: torchvision's ``ColorJitter``, as timm's ``--color-jitter`` sets it: without hue.
    """
    if strength == 0:
        return images
    low = max(0.0, 1 - strength)
    changes = low + draws[:, 1:] * (1 + strength - low) - 1  # [B, 3], 0: none
    order = _ORDERS[(draws[:, 0] * len(_ORDERS)).long()]  # [B, 3]
    for step in range(3):
        part = order[:, step : step + 1]
        images = apply_ops(images, _JITTER[part[:, 0]], changes.gather(1, part)[:, 0])
    return images


def to_float(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 ``[B, C, H, W]`` as float32: scaled to [0, 1], less ``mean``, over ``std``.

    Raises:
        ValueError: If there is not one mean and one std for each channel.
    """
    channels = images.shape[1]
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"mean has {len(mean)} and std {len(std)} values; needed: {channels}, one per channel."
        )
    scale = torch.tensor([mean, std]).mul(255).to(images.device, non_blocking=True)
    mean_level, std_level = scale.view(2, channels, 1, 1)
    return images.sub(mean_level).div_(std_level)


def num_draws(config: CellData, strong: bool) -> int:
    """Return how many uniform draws per image ``weak_view`` or ``strong_view`` takes.

    A draw has its place whether or not the options use it: switching the mirror off leaves the
    shifts as they were.
    """
    return sum(_columns(config, strong))


def view_draws(draw: Callable[[str, int], Tensor], config: CellData, strong: bool) -> Tensor:
    """Return the draws of views, float32 CPU ``[B, num_draws(config, strong)]``.

    Args:
        draw: Takes a kind and a number of columns; kinds are independent of each other, so that
            what a kind has been added for leaves the draws of the others as they were.
        config: How views are made.
        strong: For the strong view.
    """
    kinds = ("view", "jitter", "operations")
    columns = zip(kinds, _columns(config, strong), strict=True)
    return torch.cat([draw(kind, number) for kind, number in columns if number], dim=1)


def _columns(config: CellData, strong: bool) -> tuple[int, int, int]:
    """Return the draws of geometry, cutout and choice; of jitter; of magnitude and probability."""
    operations = 2 * config.randaugment_ops * strong
    return _GEOMETRY_DRAWS + strong * _CUTOUT_DRAWS + operations, _JITTER_DRAWS, operations


def weak_view(images: Tensor, draws: Tensor, config: CellData) -> Tensor:
    """Shift and mirror at random, then change the colors, as ``config`` allows.

    Args:
        images: uint8 ``[B, C, H, W]`` on any device. With ``crop="resized"`` they have been
            cropped already, when they were read.
        draws: float32 CPU ``[B, num_draws(config, strong=False)]``, see ``view_draws``.
        config: The fields ``crop``, ``crop_padding``, ``hflip`` and ``color_jitter`` count here.

    Returns:
        uint8 ``[B, C, H, W]``.
    """
    _check_draws(images, draws, num_draws(config, strong=False))
    shift_and_mirror, colors = draws.split([_GEOMETRY_DRAWS, _JITTER_DRAWS], dim=1)
    return color_jitter(_geometry(images, shift_and_mirror, config), colors, config.color_jitter)


def strong_view(images: Tensor, draws: Tensor, config: CellData) -> Tensor:
    """Shift and mirror at random, then RandAugment, then cutout.

    Without RandAugment the colors change as in the weak view: timm takes one of the two.

    Args:
        images: As for ``weak_view``.
        draws: float32 CPU ``[B, num_draws(config, strong=True)]``; independent of the weak view's.
        config: Also ``cutout`` and the fields of RandAugment count.

    Returns:
        uint8 ``[B, C, H, W]``.

    Source: FixMatch, arXiv:2001.07685, section 2.3.
    """
    _check_draws(images, draws, num_draws(config, strong=True))
    pair = 2 * config.randaugment_ops
    shift_and_mirror, square, which, colors, how = draws.split(
        [_GEOMETRY_DRAWS, _CUTOUT_DRAWS, pair, _JITTER_DRAWS, pair], dim=1
    )
    images = _geometry(images, shift_and_mirror, config)
    if config.randaugment_ops == 0:
        images = color_jitter(images, colors, config.color_jitter)
    images = rand_augment(
        images,
        torch.cat([part.unflatten(1, (config.randaugment_ops, 2)) for part in (which, how)], dim=2),
        config.randaugment_magnitude,
        config.randaugment_magnitude_std,
        config.randaugment_probability,
    )
    return cutout(images, square, config.cutout)


def _geometry(images: Tensor, draws: Tensor, config: CellData) -> Tensor:
    if config.crop == "pad":
        images = pad_crop(images, draws[:, :2], config.crop_padding)
    if config.hflip:
        images = hflip(images, draws[:, 2])
    return images


def _check_draws(images: Tensor, draws: Tensor, per_image: int) -> None:
    if draws.shape != (len(images), per_image):
        raise ValueError(
            f"draws are {list(draws.shape)}; needed: [{len(images)}, {per_image}], "
            "the batch size and num_draws()."
        )
