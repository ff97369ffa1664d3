"""The model that is trained: a backbone and, where the method has one, a MIM branch."""

import torch
from torch import Tensor, nn

from semimae.backbones.base import Backbone
from semimae.backbones.config import BackboneConfig
from semimae.mim.config import MIMConfig
from semimae.random import generator


class SemiModel(nn.Module):
    """Backbone and MIM branch under one ``state_dict``."""

    backbone: Backbone

    def __init__(self, backbone: nn.Module, mim: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone  # type: ignore[assignment]
        self.mim = mim

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        return self.backbone(images)

    def mim_loss(self, images: Tensor, noise: Tensor, teacher: "SemiModel | None" = None) -> Tensor:
        """Return the reconstruction loss of images, masked by noise ``[B, L]``.

        ``teacher`` sees the whole images where the target is its features; ``None``: the model.
        """
        assert self.mim is not None, "the method asked for a MIM branch that was not built"
        loss: Tensor = self.mim(self.backbone, images, noise)
        return loss


def build_model(
    backbone: BackboneConfig,
    mim: MIMConfig | None,
    *,
    image_size: int,
    channels: int,
    num_classes: int,
    mask_ratio: float | None,
    seed: int,
) -> SemiModel:
    """Build a model whose first weights depend on ``seed`` alone.

    The backbone is drawn before the branch, so that methods with and without one start from the
    same backbone.

    Raises:
        UserError: If sizes do not fit together.
    """
    with torch.random.fork_rng(devices=[]):  # timm and nn.init draw from the global generator
        torch.manual_seed(generator(seed, "weights").initial_seed())
        net = backbone.build(image_size, channels, num_classes)
        branch = None
        if mim is not None:
            assert mask_ratio is not None, "a MIM branch needs a mask ratio"
            branch = mim.build(net, mask_ratio)
    return SemiModel(net, branch)
