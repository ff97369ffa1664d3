"""Learning-rate schedule, parameter groups and the moving average of weights."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from semimae.backbones.base import Backbone
from semimae.backbones.batch_norm import running_statistics
from semimae.distributed import world
from semimae.options.train import OptimConfig

# Tokens and positions, also relative (Swin: table, SwinV2: mlp) and rotary ones; as timm has it.
NO_DECAY = ("_token", "pos_embed", "position_bias_table", "cpb_mlp", "logit_scale", "rope.freqs")


def cosine_lr(step: float, *, lr: float, min_lr: float, warmup: float, total: float) -> float:
    """Return the learning rate of a step: linear warm-up from 0, then half a cosine.

    Args:
        step: From 0; in the same unit as ``warmup`` and ``total``.
        lr: Peak.
        min_lr: Value reached at ``total``.
        warmup: Length of the warm-up.
        total: Length of the whole schedule.

    Source: arXiv:1608.03983, as used by arXiv:2111.06377.
    """
    if step < warmup:
        return lr * step / warmup
    progress = min(1.0, (step - warmup) / max(total - warmup, 1e-12))
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def parameter_groups(
    model: nn.Module, backbone: Backbone, *, weight_decay: float, layer_decay: float
) -> list[dict[str, object]]:
    """Group trainable parameters by learning-rate scale and weight decay.

    Vectors and tokens (all parameters of at most one dimension, class and register tokens,
    position embeddings, mask tokens) are not decayed. A backbone layer ``i`` of ``n`` gets the
    scale ``layer_decay ** (n - i)``; the classifier and the MIM branch get 1.

    Returns:
        Groups for an optimizer with keys ``params``, ``names``, ``lr_scale``, ``weight_decay``.

    Source: arXiv:2106.08254 (BEiT), appendix; arXiv:2111.06377, table 9.
    """
    groups: dict[tuple[float, float], dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0
        if name.startswith("backbone."):
            layer = backbone.layer_id(name.removeprefix("backbone."))
            scale = layer_decay ** (backbone.num_layers - layer)
        no_decay = parameter.ndim <= 1 or any(part in name for part in NO_DECAY)
        decay = 0.0 if no_decay else weight_decay
        group = groups.setdefault(
            (scale, decay), {"params": [], "names": [], "lr_scale": scale, "weight_decay": decay}
        )
        group["params"].append(parameter)  # type: ignore[attr-defined]
        group["names"].append(name)  # type: ignore[attr-defined]
    return list(groups.values())


def build_optimizer(
    model: nn.Module, backbone: Backbone, config: OptimConfig, sharding: str = "none"
) -> torch.optim.Optimizer:
    """Return fused AdamW over the groups of a model.

    With ``sharding: zero1`` and several processes each keeps the state of its share of the
    parameters, as in arXiv:1910.02054 (ZeRO), section 5.1.
    """
    groups = parameter_groups(
        model, backbone, weight_decay=config.weight_decay, layer_decay=config.layer_decay
    )
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "fused": True}
    if sharding == "zero1" and world().size > 1:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # slow to import

        return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **options)
    return torch.optim.AdamW(groups, **options)


def clip_gradients(parameters: list[nn.Parameter], largest: float | None) -> Tensor:
    """Scale gradients down to the norm ``largest``, if there is one; return what it was before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


def skip_if(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Make the next step of a fused optimizer do nothing where ``found_inf`` is 1."""
    acting: Any = getattr(optimizer, "optim", optimizer)  # zero1 wraps it
    acting.found_inf = found_inf


def gather_state(optimizer: torch.optim.Optimizer) -> None:
    """Bring a sharded optimizer's state together in the first process, for its ``state_dict``."""
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.consolidate_state_dict(to=0)


def load_state(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """Take over the state that a ``state_dict`` had."""
    groups = packed_groups(optimizer)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # ZeroRedundancyOptimizer puts scalars on the CPU, where fused AdamW wants them beside weights.
    for holder in (optimizer, getattr(optimizer, "optim", optimizer)):
        for parameter, values in holder.state.items():
            if values:  # not of another process's share
                values["step"] = values["step"].to(parameter.device)


def packed_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return ``state_dict()["param_groups"]``, also of a sharded optimizer."""
    places = itertools.count()
    return [
        {k: [next(places) for _ in v] if k == "params" else v for k, v in group.items()}
        for group in optimizer.param_groups
    ]


def set_lr(optimizer: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """Set the learning rate of every group, times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


@torch.no_grad()
def ema_update(ema: nn.Module, model: nn.Module, decay: float | Tensor) -> None:
    """Move every weight of ``ema`` towards ``model``: ``ema = decay * ema + (1 - decay) * model``.

    BatchNorm's running statistics move as the weights do that they belong to.

    Source: arXiv:1703.01780 (Mean Teacher), equation 1.
    """
    ours: list[Tensor] = [*ema.parameters(), *running_statistics(ema)]
    theirs: list[Tensor] = [*model.parameters(), *running_statistics(model)]
    if isinstance(decay, Tensor):  # a scalar on the device, which lerp takes per element alone
        moves = torch._foreach_sub(theirs, ours)
        torch._foreach_mul_(moves, 1.0 - decay)
        torch._foreach_add_(ours, moves)
    else:
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
