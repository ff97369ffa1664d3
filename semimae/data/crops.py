"""Square parts of images of any size, scaled to what the model sees."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

Pixels = NDArray[np.uint8]  # [H, W, C]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
EVAL_CROP = 0.875  # center share of the shorter side, the field's custom (224 of 256 pixels)


def square_views(
    pixels: Pixels, size: int, min_scale: float, draws: list[list[float]]
) -> list[Tensor]:
    """Return a random resized crop per element of ``draws``; without any, the whole image."""
    if not draws:
        return [center_crop(pixels, size)]
    return [resized_crop(pixels, size, min_scale, *parameters) for parameters in draws]


def center_crop(pixels: Pixels, size: int) -> Tensor:
    """Scale and crop an image ``[H, W, C]`` to uint8 ``[C, size, size]`` around its center."""
    height, width = pixels.shape[:2]
    side = min(width, height) * EVAL_CROP
    left, top = (width - side) / 2, (height - side) / 2
    return scaled(pixels, size, (left, top, left + side, top + side))


def resized_crop(pixels: Pixels, size: int, min_scale: float, *draws: float) -> Tensor:
    """Scale the ``random_box`` of an image ``[H, W, C]`` to uint8 ``[C, size, size]``."""
    height, width = pixels.shape[:2]
    return scaled(pixels, size, random_box(width, height, min_scale, *draws))


def random_box(width: int, height: int, min_scale: float, *draws: float) -> Box:
    """Return left, top, right and bottom of a random part of an image.

    The part has ``min_scale`` to 1 of the image's area and a side ratio of 3/4 to 4/3 where it
    fits; a side that is too long is cut to the image's.

    Args:
        width: In pixels.
        height: In pixels.
        min_scale: Smallest share of the area.
        draws: Four numbers in [0, 1): area, ratio, left, top.

    Source: arXiv:1409.4842, section 6. It draws again where a part does not fit; one draw per
    image keeps views a function of fixed draws.
    """
    area = width * height * (min_scale + (1 - min_scale) * draws[0])
    ratio = (4 / 3) ** (2 * draws[1] - 1)
    wide, high = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    left, top = (width - wide) * draws[2], (height - high) * draws[3]
    return left, top, left + wide, top + high


def scaled(pixels: Pixels, size: int, box: Box) -> Tensor:
    """Cut a box, rounded to whole pixels, out of an image and scale it: bicubic, antialiased.

    Torch scales bytes about three times as fast as Pillow (docs/performance.md).
    """
    left, top = round(box[0]), round(box[1])
    right, bottom = max(left + 1, round(box[2])), max(top + 1, round(box[3]))
    part = torch.from_numpy(np.array(pixels[top:bottom, left:right])).permute(2, 0, 1)
    whole = interpolate(part.unsqueeze(0), (size, size), mode="bicubic", antialias=True)
    return whole.squeeze(0)
