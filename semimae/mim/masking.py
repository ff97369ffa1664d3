"""Which patches are hidden."""

from typing import NamedTuple

from torch import Tensor

from semimae.mim.config import num_hidden


class Mask(NamedTuple):
    """Patch indices of a batch, in the order of the noise that hid them."""

    ids_keep: Tensor  # [B, K], visible patches
    ids_hide: Tensor  # [B, L - K], hidden patches


def random_masking(noise: Tensor, mask_ratio: float) -> Mask:
    """Hide the patches with the largest noise, independently for each image.

    Args:
        noise: ``[B, L]``, one draw per patch. Taking the noise as an argument makes the mask a
            pure function.
        mask_ratio: Fraction of patches to hide, in (0, 1).

    Returns:
        A ``Mask`` whose every row hides ``round(L * mask_ratio)`` patches.

    Raises:
        ValueError: If that count is 0 or ``L``.

    Source: arXiv:2111.06377, section 3.
    """
    num_patches = noise.shape[1]
    kept = num_patches - num_hidden(num_patches, mask_ratio)
    ids_shuffle = noise.argsort(dim=1)
    return Mask(ids_shuffle[:, :kept], ids_shuffle[:, kept:])
