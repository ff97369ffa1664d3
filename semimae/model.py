"""The model that is trained: a backbone and, where the method has one, a MIM branch."""

from pathlib import Path

import torch
from torch import Tensor, nn

from semimae.backbones.base import Backbone
from semimae.backbones.config import BackboneConfig, TimmConfig
from semimae.backbones.weights import WeightReport, load_weights
from semimae.mim.branch import MIMBranch
from semimae.mim.config import MIMConfig
from semimae.random import generator


class SemiModel(nn.Module):
    """Backbone and MIM branch under one ``state_dict``."""

    backbone: Backbone
    mim: MIMBranch | None
    weight_report: WeightReport | None = None  # what ``backbone.weights`` filled, if it did

    def __init__(self, backbone: nn.Module, mim: MIMBranch | None) -> None:
        super().__init__()
        self.backbone = backbone  # type: ignore[assignment]
        self.mim = mim

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        return self.backbone(images)

    def mim_loss(self, images: Tensor, noise: Tensor, teacher: "SemiModel | None" = None) -> Tensor:
        """Return the reconstruction loss of images, masked by noise ``[B, L]``.

        ``teacher`` gives the features that ``mim.target: teacher_features`` asks for; ``None``: the
        model itself does.
        """
        assert self.mim is not None, "the method asked for a MIM branch that was not built"
        guide = None if teacher is None else teacher.backbone
        loss: Tensor = self.mim(self.backbone, images, noise, guide)
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
    weights_root: Path = Path(),
) -> SemiModel:
    """Build a model whose first weights depend on ``seed`` and ``backbone.weights`` alone.

    The backbone is drawn before the branch, so that methods with and without one start from the
    same backbone. A relative path in ``backbone.weights`` is relative to ``weights_root``.

    Raises:
        UserError: If sizes do not fit together, or weights cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):  # timm and nn.init draw from the global generator
        torch.manual_seed(generator(seed, "weights").initial_seed())
        net = backbone.build(image_size, channels, num_classes)
        branch = None
        if mim is not None:
            assert mask_ratio is not None, "a MIM branch needs a mask ratio"
            branch = mim.build(net, mask_ratio)
        model = SemiModel(net, branch)
        if backbone.weights is not None:
            timm_model = backbone.model if isinstance(backbone, TimmConfig) else None
            model.weight_report = load_weights(
                model, backbone.weights, timm_model=timm_model, root=weights_root
            )
    return model
