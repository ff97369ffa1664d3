"""RandAugment (arXiv:1909.13719) of a whole batch on its device, with own operations per image.

Operations and strengths are those of torchvision's ``v2.RandAugment`` with 31 magnitude bins.
Torchvision applies one operation to all images that it is given; here the images that drew the same
operation are treated together.

Magnitudes count from 0 to 30, whole or not. Others count to 10: magnitude 9 and standard deviation
0.5 of timm's ``rand-m9-mstd0.5`` are 27 and 1.5 here.

Shapes: B images, C channels (1 or 3), H rows, W columns.
"""

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from semimae.data.image_ops import OPS, TABLE, apply_ops

_NUM_LEVELS = 31
_SIGNED = torch.tensor([op.signed for op in TABLE.values()])


@cache
def _strengths(height: int, width: int) -> Tensor:
    """Return the strength of every operation at every whole level, ``[len(OPS), 31]``."""
    sides = {"TranslateX": width, "TranslateY": height}
    rows = [
        torch.linspace(op.start, op.end * sides.get(name, 1), _NUM_LEVELS)
        for name, op in TABLE.items()
    ]
    return torch.stack(rows)


def op_strength(choice: Tensor, level: Tensor, height: int, width: int) -> Tensor:
    """Return the strength, without its sign, of operations at levels between 0 and 30.

    The unit is the operation's own: pixels for ``TranslateX`` and ``TranslateY``, else as in
    ``TABLE``.

    Args:
        choice: int64 ``[B]``, places in ``OPS``.
        level: float32 ``[B]``; between two whole levels the strength is in proportion.
        height: Of the images.
        width: Of the images.
    """
    table, below = _strengths(height, width), level.floor()
    low = table[choice, below.long()]
    high = table[choice, level.ceil().long()]
    strength = torch.lerp(low, high, level - below)  # exact at whole levels
    return torch.where(choice == OPS.index("Posterize"), strength.round(), strength)


def drawn_level(draws: Tensor, magnitude: int, std: float | Literal["uniform"]) -> Tensor:
    """Return the level that each draw stands for, in 0 to 30.

    Args:
        draws: float32, any shape, uniform in [0, 1).
        magnitude: The mean of a normal distribution.
        std: Its standard deviation, or ``"uniform"``: levels are spread evenly over 0 to
            ``magnitude``.

    Raises:
        ValueError: If the magnitude is not in 0 to 30.

    Source: timm's ``AugmentOp``; arXiv:2001.07685 (FixMatch), section 2.3, draws evenly.
    """
    if not 0 <= magnitude < _NUM_LEVELS:
        raise ValueError(f"magnitude={magnitude} is not a level of RandAugment; allowed: 0 to 30.")
    if std == "uniform":
        return draws * magnitude
    if std == 0:
        return torch.full_like(draws, magnitude)
    levels: Tensor = magnitude + std * torch.special.ndtri(draws)
    return levels.clamp(0, _NUM_LEVELS - 1)


def rand_augment(
    images: Tensor,
    draws: Tensor,
    magnitude: int,
    std: float | Literal["uniform"] = 0.0,
    probability: float = 1.0,
) -> Tensor:
    """Apply random operations, one after the other, to each image.

    Args:
        images: uint8 ``[B, C, H, W]``, C 1 or 3, on any device.
        draws: float32 CPU ``[B, operations, 4]``, uniform in [0, 1): which operation, its sign, its
            magnitude, and whether it is applied at all. Image i depends on ``images[i]`` and
            ``draws[i]`` only.
        magnitude: Strength of all operations, 0 to 30.
        std: How far it spreads, as for ``drawn_level``.
        probability: With which a drawn operation is applied.

    Returns:
        uint8 ``[B, C, H, W]``.

    Source: arXiv:1909.13719, section 3; spread and probability: timm's ``AugmentOp``.
    """
    levels = drawn_level(draws[..., 2], magnitude, std)  # [B, operations]
    for step in range(draws.shape[1]):
        which, sign, _, applied = draws[:, step].unbind(dim=1)  # [B] each
        choice = (which * len(OPS)).long()
        choice = torch.where(applied < probability, choice, OPS.index("Identity"))
        strength = op_strength(choice, levels[:, step], *images.shape[-2:])
        negative = _SIGNED[choice] & (sign < 0.5)
        images = apply_ops(images, choice, torch.where(negative, -strength, strength))
    return images
