"""Ways to run transformer blocks that change the cost, not the result."""

from collections.abc import Iterable
from typing import Any

from timm.layers.attention import Attention
from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block
from torch import Tensor, is_grad_enabled, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, x: Tensor, *, recompute: bool, **options: Any) -> Tensor:
    """Run a block; with ``recompute`` keep its input alone and run it again for the gradient.

    Source: arXiv:1604.06174.
    """
    if recompute and is_grad_enabled():
        made: Tensor = checkpoint(
            block, x, use_reentrant=False, preserve_rng_state=False, **options
        )  # nothing in a block is random
    else:
        made = block(x, **options)
    return made


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *, recompute: bool) -> Tensor:
    """Run blocks one after the other."""
    for block in blocks:
        x = run_block(block, x, recompute=recompute)
    return x


def can_run_rows(block: nn.Module) -> bool:
    """Tell whether ``run_rows`` knows the inside of a block."""
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
    )


def run_rows(block: Block, x: Tensor, rows: slice) -> Tensor:
    """Return rows of a block's output, ``block(x)[:, rows]``, and compute no others.

    All tokens are keys and values; only ``rows`` ask, and only they pass the MLP.

    Args:
        block: One that ``can_run_rows``.
        x: ``[B, N, D]``.
        rows: Tokens.
    """
    attention = block.attn
    heads, width = attention.num_heads, attention.num_heads * attention.head_dim
    normed, x = block.norm1(x), x[:, rows]
    weights, biases = attention.qkv.weight.tensor_split([width]), (None, None)
    if attention.qkv.bias is not None:
        biases = attention.qkv.bias.tensor_split([width])
    query = functional.linear(normed[:, rows], weights[0], biases[0])  # [B, R, width]
    query = query.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, R, d]
    both = functional.linear(normed, weights[1], biases[1]).unflatten(-1, (2, heads, -1))
    key, value = both.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, N, d] each
    query, key = attention.q_norm(query), attention.k_norm(key)
    if attention.fused_attn:
        mixed = functional.scaled_dot_product_attention(query, key, value)
    else:
        mixed = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1) @ value
    mixed = attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2)))
    x = x + block.ls1(mixed)
    made: Tensor = x + block.ls2(block.mlp(block.norm2(x)))
    return made


def set_plain_attention(module: nn.Module, plain: bool) -> None:
    """Make attention of matrix products (``plain``) or torch's fused one; both are exact."""
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = not plain  # type: ignore[assignment]


def is_block(module: nn.Module) -> bool:
    """Tell whether a module is one of timm's transformer blocks."""
    return isinstance(module, Block | EvaBlock | SwinTransformerBlock | SwinTransformerV2Block)
