"""Fixed position embeddings."""

import torch
from torch import Tensor


def sincos_position_embedding(dim: int, grid: int) -> Tensor:
    """Return the 2-D sine-cosine embedding of a square grid of patches.

    Half of the channels encode the column and half the row; each half holds the sines and then the
    cosines of ``position / 10000 ** (2 i / (dim / 2))``.

    Args:
        dim: Width, a multiple of 4.
        grid: Patches per side.

    Returns:
        float64 ``[grid * grid, dim]``, row by row.

    Raises:
        ValueError: If 4 does not divide ``dim``.

    Source: arXiv:2104.02057 (MoCo v3), section 5; arXiv:2111.06377, appendix A.
    """
    if dim % 4:
        raise ValueError(f"dim={dim} is not a multiple of 4, which sine-cosine positions need.")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    position = torch.arange(grid, dtype=torch.float64)
    rows, columns = torch.meshgrid(position, position, indexing="ij")
    halves = []
    for axis in (columns, rows):
        angle = axis.reshape(-1, 1) * frequency
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1)
