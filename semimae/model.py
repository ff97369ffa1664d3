"""The model that is trained: a backbone and, where the method has one, a MIM branch.

Options know nothing of what is built from them; this is the only place that goes from one to the
other.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semimae.backbones import cnn, from_timm, vit
from semimae.backbones.base import Backbone
from semimae.backbones.weight_report import WeightReport
from semimae.backbones.weights import load_weights
from semimae.data.store import Prepared
from semimae.mim.branch import MIMBranch
from semimae.mim.mae import MAE
from semimae.mim.simmim import SimMIM
from semimae.options.backbone import BackboneConfig, CNNConfig, TimmConfig, no_patches
from semimae.options.cell import Cell
from semimae.options.mim import MAEConfig, Masked
from semimae.random import generator
from semimae.types import UserError

_log = logging.getLogger(__name__)


class SemiModel(nn.Module):
    """Backbone and MIM branch under one ``state_dict``."""

    backbone: Backbone
    mim: MIMBranch | None
    weight_report: WeightReport | None = None  # what ``backbone.weights`` filled, if it did

    def __init__(self, backbone: nn.Module, mim: MIMBranch | None) -> None:
        super().__init__()
        self.backbone = backbone  # type: ignore[assignment]
        self.mim = mim

    def forward(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Map normalized images ``[B, C, H, W]`` to logits ``[B, num_classes]``.

        ``paths`` ``[B, 2 * blocks]`` are factors of the residual branches, for stochastic depth;
        ``None``: ones.
        """
        return self.backbone(images, paths)

    def mim_loss(self, images: Tensor, noise: Tensor, teacher: "SemiModel | None" = None) -> Tensor:
        """Return the reconstruction loss of images, masked by noise ``[B, L]``.

        ``teacher`` gives the features that ``mim.target: teacher_features`` asks for; ``None``: the
        model itself does.
        """
        assert self.mim is not None, "the method asked for a MIM branch that was not built"
        guide = None if teacher is None else teacher.backbone
        loss: Tensor = self.mim(self.backbone, images, noise, guide)
        return loss


def build_backbone(
    config: BackboneConfig, image_size: int, channels: int, num_classes: int
) -> nn.Module:
    """Return a backbone with fresh weights.

    Raises:
        UserError: If the patches do not fill the image, or timm has no such model in these sizes.
    """
    if isinstance(config, TimmConfig):
        return from_timm.build(config, image_size, channels, num_classes)
    if isinstance(config, CNNConfig):
        return cnn.plain_cnn(config, image_size, channels, num_classes)
    try:
        config.patches_per_side(image_size)
    except ValueError as error:
        raise UserError(str(error)) from None
    return vit.plain_vit(config, image_size, channels, num_classes)


def build_branch(masked: Masked, backbone: Backbone) -> MIMBranch:
    """Return a MIM branch with fresh weights.

    Raises:
        UserError: If sizes do not fit together, the backbone has no patches, or the branch leaves
            patches out and the backbone needs all of them.
    """
    if not backbone.has_patches:
        raise UserError(f"{no_patches('the backbone')}.")
    size = backbone.patch_size
    try:
        masked.check_patches(backbone.image_size // size, size**2 * backbone.channels)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not isinstance(masked.branch, MAEConfig):
        return SimMIM(masked.branch, backbone, masked.mask_ratio)
    if not backbone.can_drop_patches:
        raise UserError(
            "mim.name=mae hides patches by leaving them out, and windowed attention needs them "
            "all; choose mim.name: simmim, which puts mask tokens in their place."
        )
    return MAE(masked.branch, backbone, masked.mask_ratio)


def build_model(
    backbone: BackboneConfig,
    mim: Masked | None,
    *,
    image_size: int,
    channels: int,
    num_classes: int,
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
        model = SemiModel(build_backbone(backbone, image_size, channels, num_classes), None)
        if mim is not None:
            model.mim = build_branch(mim, model.backbone)
        if backbone.weights is not None:
            timm_model = backbone.model if isinstance(backbone, TimmConfig) else None
            model.weight_report = load_weights(
                model,
                backbone.weights,
                prefix=backbone.weights_prefix,
                timm_model=timm_model,
                root=weights_root,
            )
    return model


def model_of(cell: Cell, prepared: Prepared) -> SemiModel:
    """Build the cell's model with its first weights, on the CPU.

    Raises:
        UserError: If the prepared images do not have the cell's size, or the file of starting
            weights is not the one that the cell was made for.
    """
    root = prepared.root or Path()
    if cell.weights_sha256 is not None and cell.with_weights_hash(root) != cell:
        raise UserError(
            f"backbone.weights={cell.backbone.weights} has changed; run `dvc repro -f`."
        )
    info = prepared.info
    if (info.image_size, info.channels) != (cell.data.image_size, cell.data.channels):
        raise UserError(
            f"the prepared images are {info.image_size} px with {info.channels} channels, the cell "
            f"wants {cell.data.image_size} px with {cell.data.channels}; run `dvc repro prepare`."
        )
    model = build_model(
        cell.backbone,
        cell.mim,
        image_size=info.image_size,
        channels=info.channels,
        num_classes=info.num_classes,
        seed=cell.seed,
        weights_root=root,
    )
    if model.weight_report is not None:
        _log.info("%s", model.weight_report)
    return model


def timm_model(
    config: BackboneConfig, image_size: int, channels: int, num_classes: int
) -> tuple[str, dict[str, Any]]:
    """Return a backbone's name in timm and what else ``timm.create_model`` takes, plain JSON.

    Raises:
        UserError: If timm has no such model.
    """
    if isinstance(config, CNNConfig):
        raise UserError("timm has no model like backbone.name=cnn; choose format onnx or torch.")
    sizes = (image_size, channels, num_classes)
    if isinstance(config, TimmConfig):
        return config.model, from_timm.timm_arguments(config, *sizes)
    if config.stem == "conv":
        raise UserError(
            "backbone.stem=conv has no counterpart in timm; export the model as onnx or torch."
        )
    # Any plain Vision Transformer: the arguments take the place of all that its name says.
    return "vit_tiny_patch16_224", vit.timm_arguments(config, *sizes)
