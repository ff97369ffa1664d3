"""A convolutional stem: overlapping convolutions in the place of the patch embedding."""

import itertools

import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from semimae.patches import patchify, unpatchify

_GROUP = 8  # channels per group of the normalization


class ConvStem(nn.Module):
    """Maps images ``[B, C, S, S]`` to one token per patch, ``[B, L, D]``.

    Each stage is a 3x3 convolution, max pooling, normalization and ReLU, and halves the side; a
    last 3x3 convolution maps to the width of the tokens. So a token sees its patch and what lies
    around it. Nothing mixes the images of a batch, as batch normalization would: a batch may be
    split, and images may be left out of it, without changing the others. With group normalization
    alone such a stem falls behind by a lot; weight standardization makes up for it
    (docs/method.md).

    Source: arXiv:2106.14881 (convolutional stems), arXiv:1903.10520 (weight standardization).
    """

    def __init__(
        self, image_size: int, patch_size: int, channels: int, width: int, embed_dim: int
    ) -> None:
        """Draw fresh weights.

        Args:
            image_size: S, in pixels.
            patch_size: A power of two, the total stride.
            channels: C.
            width: Channels of the first stage, a multiple of 8; each further one has twice as many.
            embed_dim: D.
        """
        super().__init__()
        self.img_size, self.patch_size = (image_size, image_size), (patch_size, patch_size)
        self.channels = channels
        stages: list[nn.Module] = []
        num_stages = patch_size.bit_length() - 1
        widths = [channels, *(width << stage for stage in range(num_stages))]
        for before, after in itertools.pairwise(widths):
            stages += [
                StdConv2d(before, after, 3, padding=1),
                nn.MaxPool2d(2),  # first: a quarter of the values is left to normalize
                nn.GroupNorm(after // _GROUP, after),
                nn.ReLU(),
            ]
        self.stages = nn.Sequential(*stages)
        self.proj = nn.Conv2d(widths[-1], embed_dim, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens ``[B, L, D]``, row by row."""
        # On a CPU forward and backward take about two thirds of the time with channels last.
        images = images.contiguous(memory_format=torch.channels_last)
        tokens: Tensor = self.proj(self.stages(images))
        return tokens.flatten(2).transpose(1, 2)


def visible(images: Tensor, ids_keep: Tensor, patch_size: int) -> Tensor:
    """Set all patches of normalized images but ``ids_keep`` ``[B, K]`` to 0, which is the mean.

    What an overlapping stem does not see cannot leak into the tokens around it.
    """
    patches = patchify(images, patch_size)
    index = ids_keep.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
    kept = torch.zeros_like(patches).scatter(1, index, patches.gather(1, index))
    return unpatchify(kept, patch_size, images.shape[1])
