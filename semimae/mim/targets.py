"""What the MIM branch predicts at each patch."""

from collections.abc import Callable

from torch import Tensor

from semimae.mim.config import TargetName
from semimae.patches import patchify


def pixels(images: Tensor, patch_size: int) -> Tensor:
    """Return the pixels of each patch: ``[B, L, p * p * C]``."""
    return patchify(images, patch_size)


def norm_pixels(images: Tensor, patch_size: int) -> Tensor:
    """Return pixels with each patch scaled to zero mean and unit variance.

    Source: arXiv:2111.06377, section 4.1 (reconstruction target); unbiased variance, 1e-6 added.
    """
    patches = patchify(images, patch_size)
    mean = patches.mean(dim=-1, keepdim=True)
    var = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


TARGETS: dict[TargetName, Callable[[Tensor, int], Tensor]] = {
    "pixels": pixels,
    "norm_pixels": norm_pixels,
}
