"""What the MIM branch predicts at each patch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from semimae.backbones.base import Backbone
from semimae.mim.hog import hog_of_patches
from semimae.options.mim import TargetName
from semimae.patches import patchify

Target = Callable[[Tensor, Backbone], Tensor]  # images and the teacher's encoder: [B, L, T]


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


@torch.no_grad()
def teacher_features(images: Tensor, teacher: Backbone) -> Tensor:
    """Return what the teacher makes of each patch of the whole images: ``[B, L, embed_dim]``.

    After the final norm, and normalized again without learned scales, so that the teacher cannot
    shrink the target.

    Source: arXiv:2202.03555 (data2vec), section 3.3. Deviation: the last layer alone, as in
    arXiv:2111.07832 (iBOT), not an average over layers.
    """
    encoded = teacher.encode(teacher.tokenize(images))[:, teacher.num_prefix_tokens :]
    return functional.layer_norm(encoded.to(images.dtype), encoded.shape[-1:])


# The targets that the images alone determine: images and patch size give [B, L, T].
TARGETS: dict[TargetName, Callable[[Tensor, int], Tensor]] = {
    "pixels": pixels,
    "norm_pixels": norm_pixels,
    "hog": hog_of_patches,
}


def make_target(name: TargetName) -> Target:
    """Return a target by its name, as a function of images and the teacher's encoder."""
    if name == "teacher_features":
        return teacher_features
    of_images = TARGETS[name]
    return lambda images, teacher: of_images(images, teacher.patch_size)
