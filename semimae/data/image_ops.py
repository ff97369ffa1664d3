"""The operations of RandAugment on batches, with a magnitude of its own for each image.

Operations, their names and their strengths are those of torchvision's ``v2.RandAugment``, with
nearest-neighbor sampling and black filling.

Shapes: B images, C channels (1 or 3), H rows, W columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as nn
from torch import Tensor
from torchvision.transforms.v2 import functional as vision


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Return ``values`` (``[B]``, on the CPU) as ``[B, 1, 1, 1]`` beside the images."""
    return values.view(-1, 1, 1, 1).to(images.device, non_blocking=True)


def _warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Fill each output pixel with the nearest input pixel of the position that ``matrix`` gives.

    Args:
        images: uint8 ``[B, C, H, W]``.
        matrix: float64 CPU ``[B, 2, 3]``, takes an output pixel's ``(x, y, 1)`` to the position of
            its source; both in pixels from the center of the image.
    """
    height, width = images.shape[-2:]
    theta = matrix.float() / torch.tensor([[width / 2], [height / 2]])  # grid_sample's unit
    theta = theta.to(images.device, non_blocking=True)[..., None, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2  # [W]
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2  # [H, 1]
    # Products and sums one by one, in torchvision's order. A matrix product may differ in the last
    # bit with batch size, device and TF32, and that bit decides where a source is midway between
    # two pixels.
    grid = theta[:, :, 0] * x + theta[:, :, 1] * y + theta[:, :, 2]  # [B, 2, H, W]
    sampled = nn.grid_sample(
        images.float(), grid.permute(0, 2, 3, 1), mode="nearest", align_corners=False
    )
    return sampled.to(torch.uint8)


def _identity_matrix(magnitude: Tensor) -> Tensor:
    return torch.eye(2, 3, dtype=torch.float64).expand(len(magnitude), 2, 3).clone()


def _shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    matrix = _identity_matrix(magnitude)
    matrix[:, 0, 1] = magnitude
    matrix[:, 0, 2] = magnitude * (images.shape[-2] / 2)  # the top edge stays in place
    return _warp(images, matrix)


def _shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    matrix = _identity_matrix(magnitude)
    matrix[:, 1, 0] = magnitude
    matrix[:, 1, 2] = magnitude * (images.shape[-1] / 2)  # the left edge stays in place
    return _warp(images, matrix)


def _translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    matrix = _identity_matrix(magnitude)
    matrix[:, 0, 2] = -magnitude.trunc()
    return _warp(images, matrix)


def _translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    matrix = _identity_matrix(magnitude)
    matrix[:, 1, 2] = -magnitude.trunc()
    return _warp(images, matrix)


def _rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    angle = magnitude.double().deg2rad()
    matrix = _identity_matrix(magnitude)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return _warp(images, matrix)


def _away_from(degenerate: Tensor | float, images: Tensor, magnitude: Tensor) -> Tensor:
    """Move the images away from ``degenerate`` by ``magnitude`` times the difference."""
    strength = _per_image(magnitude, images)
    return (images + strength * (images - degenerate)).clamp_(0, 255).to(torch.uint8)


def _brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    return _away_from(0.0, images, magnitude)


def _color(images: Tensor, magnitude: Tensor) -> Tensor:
    return _away_from(vision.rgb_to_grayscale(images).float(), images, magnitude)


def _contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    gray = vision.rgb_to_grayscale(images).float()
    return _away_from(gray.mean(dim=(1, 2, 3), keepdim=True), images, magnitude)


def _sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    # Pillow's SMOOTH filter: weight 5 in the middle, 1 around it; the border is left as it is.
    # torchvision's convolution would wait for the device, may run in TF32, and is slower.
    smooth = images.float()
    middle = smooth[:, :, 1:-1, 1:-1]
    box = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
    box = box[..., :-2] + box[..., 1:-1] + box[..., 2:]
    middle.copy_(box.add_(middle, alpha=4).div_(13).round_())
    return _away_from(smooth, images, magnitude)


def _posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    mask = 256 - 2 ** (8 - magnitude.int())  # the highest bits
    return images & _per_image(mask.to(torch.uint8), images)


def _solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    bright = images >= _per_image(magnitude * 255, images)
    return images ^ bright.to(torch.uint8).mul_(255)  # inverts a byte; torch.where is slow on bytes


class Op(NamedTuple):
    """An operation and the range of its strength."""

    apply: Callable[[Tensor, Tensor], Tensor]
    start: float = 0.0  # magnitude at level 0
    end: float = 0.0  # magnitude at level 30
    signed: bool = False


TABLE = {
    "Identity": Op(lambda images, _: images),
    "ShearX": Op(_shear_x, 0.0, 0.3, signed=True),  # pixels per row
    "ShearY": Op(_shear_y, 0.0, 0.3, signed=True),
    "TranslateX": Op(_translate_x, 0.0, 150.0 / 331.0, signed=True),  # share of the width
    "TranslateY": Op(_translate_y, 0.0, 150.0 / 331.0, signed=True),
    "Rotate": Op(_rotate, 0.0, 30.0, signed=True),  # degrees
    "Brightness": Op(_brightness, 0.0, 0.9, signed=True),
    "Color": Op(_color, 0.0, 0.9, signed=True),
    "Contrast": Op(_contrast, 0.0, 0.9, signed=True),
    "Sharpness": Op(_sharpness, 0.0, 0.9, signed=True),
    "Posterize": Op(_posterize, 8.0, 4.0),  # bits kept
    "Solarize": Op(_solarize, 1.0, 0.0),  # share of the largest gray level
    "AutoContrast": Op(lambda images, _: vision.autocontrast(images)),
    "Equalize": Op(lambda images, _: vision.equalize(images)),
}
OPS: tuple[str, ...] = tuple(TABLE)


def apply_op(images: Tensor, op: str, magnitude: Tensor) -> Tensor:
    """Apply one operation to all images, to each with its own magnitude.

    Args:
        images: uint8 ``[B, C, H, W]``, C 1 or 3.
        op: One of ``OPS``.
        magnitude: float32 CPU ``[B]``, in the unit of torchvision's table for this operation:
            pixels, degrees, bits. Negative where the operation goes the other way.

    Returns:
        uint8 ``[B, C, H, W]``; may be ``images`` itself.

    Raises:
        ValueError: If there is no such operation or the images are not bytes.

    Source: ``torchvision.transforms.v2.RandAugment``.
    """
    if op not in TABLE:
        raise ValueError(f"no operation {op!r}; allowed: {', '.join(OPS)}.")
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images are {images.dtype}; allowed: torch.uint8; augment, then to_float."
        )
    return TABLE[op].apply(images, magnitude)


def apply_ops(images: Tensor, choice: Tensor, strength: Tensor) -> Tensor:
    """Apply to each image an operation of its own.

    Args:
        images: As for ``apply_op``.
        choice: int64 CPU ``[B]``, places in ``OPS``.
        strength: float32 CPU ``[B]``, as ``magnitude`` of ``apply_op``.
    """
    # Equal operations next to each other: groups are slices, whose bounds the CPU knows.
    order = choice.argsort()
    counts = choice.bincount(minlength=len(OPS)).tolist()
    groups = images.index_select(0, order.to(images.device, non_blocking=True)).split(counts)
    done = [
        apply_op(group, op, group_strength)
        for op, group, group_strength in zip(
            OPS, groups, strength[order].split(counts), strict=True
        )
        if len(group) > 0
    ]
    back = order.argsort().to(images.device, non_blocking=True)
    return torch.cat([images[:0], *done]).index_select(0, back)
