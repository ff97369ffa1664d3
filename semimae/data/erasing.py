"""Random erasing of rectangles in normalized images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_ATTEMPTS = 10  # timm's
ERASING_DRAWS = 3 + 2 * _ATTEMPTS  # whether, top, left; then an area and a shape per attempt
_AREA = (0.02, 1 / 3)  # share of the image
_SHAPE = (0.3, 1 / 0.3)  # height over width


def erase(
    images: Tensor,
    draws: Tensor,
    probability: float,
    noise: Callable[[int, int], Tensor] | None,
) -> Tensor:
    """Erase a rectangle of random area, shape and place in some images.

    Args:
        images: float32 ``[B, C, H, W]``, normalized, on any device.
        draws: float32 CPU ``[B, ERASING_DRAWS]``, uniform in [0, 1).
        probability: With which an image loses a rectangle. It loses none either if none of the
            attempts fits into it.
        noise: Returns so many normal draws, float32 CPU, for the image of a place; ``None``: the
            rectangle is 0, the mean color.

    Source: arXiv:1708.04896, algorithm 1, with the ranges of timm's ``RandomErasing``, whose modes
    ``const`` and ``pixel`` these are.
    """
    if probability == 0:
        return images
    bounds = erased(draws, probability, *images.shape[-2:])
    top, bottom, left, right = bounds.to(images.device, non_blocking=True)[..., None].unbind(dim=1)
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    mask = (rows[:, :, None] & columns[:, None, :])[:, None]  # [B, 1, H, W]
    if noise is None:
        return images.masked_fill(mask, 0.0)
    counts = (bounds[:, 1] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 2]) * images.shape[1]
    fill = [noise(place, count) for place, count in enumerate(counts.tolist()) if count]
    flat = torch.cat([torch.zeros(0), *fill]).to(images.device, non_blocking=True)
    return images.masked_scatter(mask.expand_as(images), flat)


def erased(draws: Tensor, probability: float, height: int, width: int) -> Tensor:
    """Return the bounds of what is erased, int64 ``[B, 4]``: top, bottom, left, right."""
    draws = draws.double()
    areas, shapes = draws[:, 3:].unflatten(1, (_ATTEMPTS, 2)).unbind(dim=2)  # [B, attempts]
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * areas) * (height * width)
    low, high = (math.log(shape) for shape in _SHAPE)
    shape = (low + (high - low) * shapes).exp()
    heights, widths = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.byte().argmax(dim=1, keepdim=True)
    chosen = fits.any(dim=1) & (draws[:, 0] < probability)
    tall, wide = (sides.gather(1, first)[:, 0] * chosen for sides in (heights, widths))
    top = (draws[:, 1] * (height - tall + 1)).floor()
    left = (draws[:, 2] * (width - wide + 1)).floor()
    return torch.stack([top, top + tall, left, left + wide], dim=1).long()
