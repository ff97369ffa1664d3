"""The small convolutional network that people would try first."""

from itertools import pairwise

from torch import Tensor, nn

from semimae.backbones.convolutional import ConvNet
from semimae.options.backbone import CNNConfig


class PlainCNN(nn.Module):
    """Blocks of convolution, BatchNorm, ReLU and pooling, an average, a linear layer.

    It has the interface of timm's networks. Nothing in it is random.
    """

    def __init__(self, channels: int, widths: list[int], num_classes: int) -> None:
        super().__init__()
        pairs = pairwise([channels, *widths])
        self.blocks = nn.Sequential(*(_block(before, after) for before, after in pairs))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Run the blocks: ``[B, D, H / 2^depth, W / 2^depth]``, both rounded up."""
        features: Tensor = self.blocks(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Average over the image, ``[B, D]``, and classify unless ``pre_logits``."""
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def get_classifier(self) -> nn.Linear:
        """Return the last layer."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return patterns that tell the depth of a parameter by its name."""
        return {"stem": r"^blocks\.0", "blocks": r"^blocks\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Do nothing: running a block twice would count its images twice in BatchNorm."""


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),  # so that a single pixel stays one
    )


def plain_cnn(config: CNNConfig, image_size: int, channels: int, num_classes: int) -> ConvNet:
    """Return the network of the given sizes with fresh weights."""
    return ConvNet(PlainCNN(channels, config.widths, num_classes), image_size, channels)
