"""What of a backbone is trained: all of it, low-rank changes, biases, or the classifier alone."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from semimae.options.backbone import BackboneConfig, LoRAConfig
from semimae.types import UserError


class LowRank(nn.Module):
    """Adds ``alpha / rank * up @ down`` to a frozen matrix, as its parametrization.

    So whoever reads ``weight`` of the layer gets the sum. It begins as the matrix itself, since
    ``up`` is 0.

    Source: arXiv:2106.09685 (LoRA), section 4.1; first values as in the authors' code and in peft.
    """

    def __init__(self, weight: Tensor, config: LoRAConfig, source: torch.Generator) -> None:
        """Draw fresh factors for a matrix ``[out, in]``."""
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        down = torch.rand(config.rank, columns, generator=source) * 2 * bound - bound
        self.down = nn.Parameter(down.to(weight))  # [rank, in]
        self.up = nn.Parameter(weight.new_zeros(rows, config.rank))  # [out, rank]
        self.scale = config.alpha / config.rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed matrix."""
        return weight + self.scale * (self.up @ self.down)


def tune(backbone: Any, config: BackboneConfig, source: torch.Generator) -> None:
    """Freeze what ``backbone.tuning`` does not train, and add what it trains instead.

    The classifier is always trained.

    Args:
        backbone: Changed in place.
        config: Its options.
        source: Draws the factors of LoRA.

    Raises:
        UserError: If the backbone has BatchNorm, whose statistics would move all the same, or has
            no layer that a target names.
    """
    if config.tuning == "full":
        return
    if backbone.mixes_images:
        raise UserError(
            f"backbone.tuning={config.tuning} is not for backbones with BatchNorm, whose running "
            "statistics move with every image; set backbone.tuning: full."
        )
    head = set(backbone.classifier.parameters())
    for name, parameter in backbone.named_parameters():
        is_bias = config.tuning == "bitfit" and name.endswith("bias")
        parameter.requires_grad_(parameter in head or (is_bias and parameter.requires_grad))
    if config.lora is not None:
        _add_low_rank(backbone, config.lora, source)


def _add_low_rank(backbone: Any, config: LoRAConfig, source: torch.Generator) -> None:
    linear = {
        name: layer
        for block in getattr(backbone, "blocks", ())
        for name, layer in block.named_modules(prefix=str(id(block)))
        if isinstance(layer, nn.Linear)
    }
    names = {name.rpartition(".")[2] for name in linear}
    if unknown := [name for name in config.targets if name not in names]:
        has = f"has {', '.join(sorted(names))}" if names else "has no blocks of linear layers"
        raise UserError(
            f"backbone.lora.targets: got {unknown[0]!r}, but the backbone {has}; choose among them."
        )
    for name, layer in linear.items():
        if name.rpartition(".")[2] in config.targets:
            change = LowRank(layer.weight, config, source)
            parametrize.register_parametrization(layer, "weight", change)
            frozen: Any = layer.parametrizations
            frozen.weight.original.requires_grad_(False)


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's ``state_dict`` with low-rank changes added to their matrices."""
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        plain = plain_name(name)
        layer = plain.rpartition(".")[0]
        owner: Any = module.get_submodule(layer)
        state[plain] = tensor if plain == name else owner.weight.detach()
    return state


def plain_name(parameter: str) -> str:
    """Return the name of the parameter that a low-rank factor belongs to.

    >>> plain_name("blocks.0.attn.qkv.parametrizations.weight.0.up")
    'blocks.0.attn.qkv.weight'
    """
    layer, _, rest = parameter.partition(".parametrizations.")
    return f"{layer}.{rest.partition('.')[0]}" if rest else parameter
