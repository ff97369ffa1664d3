"""Labeled images mixed with each other, and the soft targets that they then have.

An image's partner is the one before it in the global batch, whose order is random: each process
makes the one view of another share that it needs, and asks nobody.

Shapes: B images of the global batch, b of this process, N classes.
"""

import torch
from scipy.special import betaincinv
from torch import Tensor

from semimae.mixing import mix, plan_mixing
from semimae.options.labeled import LabeledConfig

MIX_DRAWS = 5  # whether, which kind, share, center down, center right


def mix_neighbors(
    images: Tensor, targets: Tensor, draws: Tensor, config: LabeledConfig
) -> tuple[Tensor, Tensor]:
    """Mix each image but the first with the one before it, and their targets in proportion.

    Args:
        images: ``[b + 1, C, H, W]``, normalized.
        targets: ``[b + 1, N]``.
        draws: float32 CPU ``[b, MIX_DRAWS]``, uniform in [0, 1).
        config: Alphas and probabilities.

    Returns:
        Images ``[b, C, H, W]`` and targets ``[b, N]``.
    """
    share, is_cut, center = (
        part.to(images.device, non_blocking=True) for part in mixing_draws(draws, config)
    )
    mixing = plan_mixing(share, is_cut, center, *images.shape[2:])
    mixed = mix(images[1:], images[:-1], mixing)
    share = mixing.share[:, None]
    return mixed, share * targets[1:] + (1 - share) * targets[:-1]


def mixing_draws(draws: Tensor, config: LabeledConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``plan_mixing`` takes: shares ``[B]``, which are cut ``[B]``, centers ``[B, 2]``.

    Args:
        draws: float32 CPU ``[B, MIX_DRAWS]``, uniform in [0, 1).
        config: Alphas and probabilities.

    Source: timm's ``Mixup`` with ``mode="elem"``; a share is the quantile of its beta distribution
    at its draw.
    """
    applied, kind, quantile = draws[:, :3].unbind(dim=1)
    both = config.mixup > 0 and config.cutmix > 0
    is_cut = kind < (config.switch_probability if both else float(config.cutmix > 0))
    share = torch.where(is_cut, _beta(quantile, config.cutmix), _beta(quantile, config.mixup))
    return torch.where(applied < config.mix_probability, share, 1.0), is_cut, draws[:, 3:]


def _beta(quantile: Tensor, alpha: float) -> Tensor:
    """Return the quantiles ``[B]`` of Beta(alpha, alpha); for alpha 0, which is not drawn, 1."""
    if alpha == 0:
        return torch.ones_like(quantile)
    return torch.from_numpy(betaincinv(alpha, alpha, quantile.double().numpy())).float()


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return the targets ``[B, N]`` of classes ``[B]``, of which ``smoothing`` is spread evenly."""
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / num_classes)
