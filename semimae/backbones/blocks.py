"""Ways to run transformer blocks: at another cost, for some rows, with residual branches left out.

``paths`` are what the residual branches of images are multiplied by, for stochastic depth
(arXiv:1603.09382): ``[B, 2 * blocks]``, attention and MLP of each block, one block after the other.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block
from torch import Tensor, is_grad_enabled, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class ResidualPath(nn.Module):
    """Stands where timm has its stochastic depth, whose draws are of the global generator.

    Without a factor it passes on what it gets.
    """

    factor: Tensor | None = None  # [B], set while the block runs

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each image's part of ``x``, ``[B, ...]``, by its factor."""
        if self.factor is None:
            return x
        return x * self.factor.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def add_paths(blocks: Sequence[nn.Module]) -> bool:
    """Give blocks their ``ResidualPath`` modules; return whether each has a place for two."""
    for block in blocks:
        if not (hasattr(block, "drop_path1") and hasattr(block, "drop_path2")):
            return False
        block.drop_path1, block.drop_path2 = ResidualPath(), ResidualPath()
    return True


def path_rates(rate: float, num_blocks: int) -> Tensor:
    """Return the probability that a residual branch is left out, ``[2 * num_blocks]``.

    It grows linearly from 0 in the first block to ``rate`` in the last one.

    Source: arXiv:1603.09382 (stochastic depth), section 3, as timm has it: from 0 on.
    """
    return torch.linspace(0, rate, num_blocks).repeat_interleave(2)


@contextlib.contextmanager
def on_paths(block: nn.Module, paths: Tensor | None) -> Iterator[None]:
    """Multiply the block's two residual branches by ``paths``, ``[B, 2]``, inside the context."""
    if paths is None:
        yield
        return
    attention, mlp = block.drop_path1, block.drop_path2
    assert isinstance(attention, ResidualPath)
    assert isinstance(mlp, ResidualPath)
    attention.factor, mlp.factor = paths.unbind(1)
    try:
        yield
    finally:
        attention.factor = mlp.factor = None


def run_block(
    block: nn.Module, x: Tensor, paths: Tensor | None = None, *, recompute: bool, **options: Any
) -> Tensor:
    """Run a block; with ``recompute`` keep its input alone and run it again for the gradient.

    Args:
        block: One of timm's.
        x: ``[B, ...]``.
        paths: ``[B, 2]``; ``None``: ones.
        recompute: As above (arXiv:1604.06174).
        options: What else the block takes.
    """

    def run(x: Tensor) -> Tensor:
        with on_paths(block, paths):  # also when it runs again
            made: Tensor = block(x, **options)
        return made

    if recompute and is_grad_enabled():
        made: Tensor = checkpoint(
            run, x, use_reentrant=False, preserve_rng_state=False
        )  # nothing in a block is random
        return made
    return run(x)


def run_blocks(
    blocks: Sequence[nn.Module], x: Tensor, paths: Tensor | None = None, *, recompute: bool
) -> Tensor:
    """Run blocks one after the other; ``paths`` is ``[B, 2 * blocks]``."""
    for block, own in zip(blocks, paths_of_blocks(paths, len(blocks)), strict=True):
        x = run_block(block, x, own, recompute=recompute)
    return x


def paths_of_blocks(paths: Tensor | None, num_blocks: int) -> Sequence[Tensor | None]:
    """Return the part of each block, ``[B, 2]``."""
    return [None] * num_blocks if paths is None else paths.split(2, dim=1)


def can_run_rows(block: nn.Module) -> bool:
    """Tell whether ``run_rows`` knows the inside of a block."""
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
    )


def run_rows(block: Block, x: Tensor, rows: slice, paths: Tensor | None = None) -> Tensor:
    """Return rows of a block's output, ``block(x)[:, rows]``, and compute no others.

    All tokens are keys and values; only ``rows`` ask, and only they pass the MLP.

    Args:
        block: One that ``can_run_rows``.
        x: ``[B, N, D]``.
        rows: Tokens.
        paths: ``[B, 2]``; ``None``: ones.
    """
    if getattr(block, "compiles_rows", False) and not torch.compiler.is_compiling():
        rows_of_it: Tensor = compiled_rows()(block, x, rows, paths)
        return rows_of_it
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
    with on_paths(block, paths):
        x = x + block.drop_path1(block.ls1(mixed))
        made: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return made


@cache
def compiled_rows() -> Callable[..., Tensor]:
    """Return ``run_rows`` compiled; a part of it that cannot be is an error."""
    return torch.compile(run_rows, fullgraph=True)


def compile_block(block: nn.Module) -> None:
    """Compile a block, whole or by rows; equal blocks share their code, which takes seconds."""
    block.compile(fullgraph=True)
    block.compiles_rows = True  # type: ignore[assignment]


def set_plain_attention(module: nn.Module, plain: bool) -> None:
    """Make attention of matrix products (``plain``) or torch's fused one; both are exact."""
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = not plain  # type: ignore[assignment]


def is_block(module: nn.Module) -> bool:
    """Tell whether a module is one of timm's transformer blocks."""
    return isinstance(module, Block | EvaBlock | SwinTransformerBlock | SwinTransformerV2Block)
