"""Backbones by their names in timm: which families there are and how each is asked for."""

import copy
import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import timm
import torch
from timm.models import model_entrypoint
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from semimae.backbones.convolutional import ConvNet
from semimae.backbones.eva import RotaryViT
from semimae.backbones.feature_extractor import FeatureExtractor
from semimae.backbones.swin import Swin
from semimae.backbones.vit import ViT
from semimae.options.backbone import TimmConfig
from semimae.types import UserError


class Family(NamedTuple):
    """Models of one of timm's classes."""

    model: type[nn.Module]
    backbone: Callable[..., FeatureExtractor]
    options: dict[str, object]  # for timm, beside the sizes

    @property
    def has_stages(self) -> bool:
        """Whether depth and heads are lists, one entry per stage."""
        return self.backbone is Swin

    @property
    def is_convolutional(self) -> bool:
        """Whether its names alone say all sizes, also for images of any size."""
        return self.backbone is ConvNet


_VIT = Family(VisionTransformer, ViT, {"dynamic_img_size": False})
# DINOv3's norm stands in front of the mean.
_EVA = Family(Eva, RotaryViT, {"use_fc_norm": False, "dynamic_img_size": False})

# By the module of timm that defines the name.
FAMILIES = {
    "vision_transformer": _VIT,
    "deit": _VIT,
    "eva": _EVA,
    "swin_transformer": Family(SwinTransformer, Swin, {}),
    "swin_transformer_v2": Family(SwinTransformerV2, Swin, {}),
    "resnet": Family(ResNet, ConvNet, {}),
    "convnext": Family(ConvNeXt, ConvNet, {}),
    "efficientnet": Family(EfficientNet, ConvNet, {}),
    "mobilenetv3": Family(MobileNetV3, ConvNet, {}),
    "regnet": Family(RegNet, ConvNet, {}),
}


def family_of(model: str) -> Family:
    """Return the family of a model's name.

    Raises:
        UserError: If timm does not know the name, or it is of a family that is not in ``FAMILIES``.
    """
    if not timm.is_model(model) or "." in model:
        near = difflib.get_close_matches(model.split(".")[0], timm.list_models(), n=3)
        hint = f"near ones are {', '.join(near)}" if near else "see timm.list_models()"
        raise UserError(
            f"backbone.model={model} is not a model of timm {timm.__version__}: {hint}; a tag "
            "after a dot belongs in backbone.weights, as timm:TAG."
        )
    module = model_entrypoint(model).__module__.rsplit(".", 1)[-1]
    if module not in FAMILIES:
        raise UserError(
            f"backbone.model={model} is of timm's family {module}; those that can be used are "
            f"{', '.join(FAMILIES)}."
        )
    return FAMILIES[module]


def timm_arguments(
    config: TimmConfig, image_size: int, channels: int, num_classes: int
) -> dict[str, Any]:
    """Return what ``timm.create_model`` takes beside the name; the values are plain JSON."""
    family = family_of(config.model)
    sizes = {
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depths" if family.has_stages else "depth": config.depth,
        "num_heads": config.num_heads,
        "window_size": config.window_size,
    }
    image = {} if family.is_convolutional else {"img_size": image_size}
    return {
        **image,
        "in_chans": channels,
        "num_classes": num_classes,
        "global_pool": config.pool,
        "drop_path_rate": 0.0,
        **family.options,
        **{key: value for key, value in sizes.items() if value is not None},
    }


def build(config: TimmConfig, image_size: int, channels: int, num_classes: int) -> FeatureExtractor:
    """Return a backbone with fresh weights.

    timm's stochastic depth and dropout are off: they draw from the global generator, and everything
    random in a run depends on its seed and step alone. ``paths`` takes the place of the former.

    Raises:
        UserError: If timm has no such model, or not in these sizes.
    """
    family = family_of(config.model)
    _check(config, family)
    try:
        model = timm.create_model(
            config.model,
            pretrained=False,
            **timm_arguments(config, image_size, channels, num_classes),
        )
        if family.is_convolutional:  # some shrink small images to nothing
            blank = torch.empty(1, channels, image_size, image_size, device="meta")
            copy.deepcopy(model).to("meta").eval()(blank)
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"timm cannot build backbone.model={config.model} for images of {image_size} px: "
            f"{reason}; change data.image_size or the sizes in section backbone."
        ) from None
    if type(model) is not family.model or getattr(model, "attn_pool", None) is not None:
        raise UserError(
            f"backbone.model={config.model} is timm's {type(model).__name__} with parts of its "
            "own; choose a model without distillation token and attention pooling."
        )
    if family.is_convolutional:
        return family.backbone(model, image_size, channels)
    _check_grid(config, model, image_size)
    return family.backbone(model)


def _check(config: TimmConfig, family: Family) -> None:
    """Check what timm would accept in silence or refuse without naming our key."""
    if config.pool == "norm_avg":
        raise UserError(
            "backbone.pool=norm_avg: only backbone.name: vit has it; set backbone.pool: avg."
        )
    if config.pool == "token" and (family.is_convolutional or family.has_stages):
        raise UserError(
            f"backbone.pool=token: {config.model} has no class token; set backbone.pool: avg."
        )
    if family.is_convolutional:
        for key in ("patch_size", "embed_dim", "depth", "num_heads", "window_size"):
            if getattr(config, key) is not None:
                raise UserError(
                    f"backbone.{key}={getattr(config, key)}: {config.model} is a convolutional "
                    "network whose name says its sizes; set it to null."
                )
        return
    for key in ("depth", "num_heads"):
        value = getattr(config, key)
        if value is not None and isinstance(value, tuple) != family.has_stages:
            kind = "a list, one number per stage" if family.has_stages else "one number"
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(f"backbone.{key}={shown}: {config.model} takes {kind}.")
    if not family.has_stages and config.window_size is not None:
        raise UserError(
            f"backbone.window_size={config.window_size}: {config.model} has no windows; set it to "
            "null."
        )


def _check_grid(config: TimmConfig, model: Any, image_size: int) -> None:
    """Check that patches, merged patches and windows fill the image."""
    patch = model.patch_embed.patch_size[0]
    stages = getattr(model, "layers", [None])
    stride = patch * 2 ** (len(stages) - 1)
    if image_size % stride:
        raise UserError(
            f"data.image_size={image_size} is not a multiple of {stride} px, the "
            f"{'last stage' if len(stages) > 1 else 'patch'} of {config.model}; change the image "
            f"size, backbone.patch_size{' or backbone.depth' if len(stages) > 1 else ''}."
        )
    if len(stages) == 1:
        return
    for index, stage in enumerate(stages):
        grid, window = stage.blocks[0].input_resolution[0], stage.blocks[0].window_size[0]
        if grid % window:
            raise UserError(
                f"stage {index + 1} of {config.model} has {grid} tokens per side, which its "
                f"windows of {window} do not fill; set backbone.window_size to a divisor."
            )
