"""A convolutional stem: overlapping convolutions in the place of the patch embedding."""

from timm.layers import StdConv2d
from torch import Tensor, nn

from semimae.patches import patchify, unpatchify

_GROUP = 8  # channels per group of the normalization


class ConvStem(nn.Module):
    """Maps images ``[B, C, S, S]`` to one token per patch, ``[B, L, D]``.

    Each stage is a 3x3 convolution, normalization, ReLU and max pooling, and halves the side; a
    last 3x3 convolution maps to the width of the tokens. So a token sees its patch and what lies
    around it. Nothing mixes the images of a batch, as batch normalization would: a batch may be
    split, and images may be left out of it, without changing the others. With group normalization
    alone such a stem falls behind by a lot; weight standardization makes up for it
    (docs/method.md).

    Source: arXiv:2106.14881 (convolutional stems), arXiv:1903.10520 (weight standardization).
    """

    def __init__(self, image_size: int, patch_size: int, channels: int, embed_dim: int) -> None:
        """Draw fresh weights.

        Args:
            image_size: S, in pixels.
            patch_size: A power of two, the total stride.
            channels: C.
            embed_dim: D; the stages have D / ``patch_size`` channels and twice as many each.
        """
        super().__init__()
        self.img_size, self.patch_size = (image_size, image_size), (patch_size, patch_size)
        self.channels = channels
        stages: list[nn.Module] = []
        num_stages = patch_size.bit_length() - 1
        width = channels
        for stage in range(num_stages):
            wider = max(_GROUP, (embed_dim >> num_stages) << stage) // _GROUP * _GROUP
            stages += [
                StdConv2d(width, wider, 3, padding=1),
                nn.GroupNorm(wider // _GROUP, wider),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            width = wider
        self.stages = nn.Sequential(*stages)
        self.proj = nn.Conv2d(width, embed_dim, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens ``[B, L, D]``, row by row."""
        tokens: Tensor = self.proj(self.stages(images))
        return tokens.flatten(2).transpose(1, 2)


def blank(images: Tensor, ids: Tensor, patch_size: int) -> Tensor:
    """Set patches ``ids`` ``[B, K]`` of normalized images to 0, which is the mean of all images.

    What an overlapping stem does not see cannot leak into the tokens around it.
    """
    patches = patchify(images, patch_size)
    hidden = patches.new_zeros(*ids.shape, patches.shape[-1])
    index = ids.unsqueeze(-1).expand_as(hidden)
    return unpatchify(patches.scatter(1, index, hidden), patch_size, images.shape[1])
