"""Every kind of backbone and MIM branch, as small as it can be."""

from pathlib import Path

import torch
from support import section
from torch import Tensor

from semimae.backbones.batch_norm import running_statistics
from semimae.model import SemiModel, build_model
from semimae.options.backbone import BackboneConfig, CNNConfig, TimmConfig, ViTConfig
from semimae.options.mim import MAEConfig, Masked, SimMIMConfig

_VIT = section("backbone").model_dump() | {"patch_size": 4, "mlp_ratio": 2.0}
_TIMM = {
    "name": "timm",
    "model": "vit_tiny_patch16_224",
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "window_size": None,
    "pool": "avg",
    "weights": None,
    "weights_prefix": None,
    "tuning": "full",
    "lora": None,
}
_SWIN = {"patch_size": 1, "depth": [2, 2, 1], "num_heads": [1, 2, 2], "window_size": 4}
_MAE = section("mim").model_dump()
_SIMMIM = {key: _MAE[key] for key in SimMIMConfig.model_fields} | {"name": "simmim"}

IMAGE_SIZE, CHANNELS, CLASSES, PATCHES = 16, 3, 5, 16


def vit(**changes: object) -> ViTConfig:
    return ViTConfig.model_validate(_VIT | changes)


def timm_model(**changes: object) -> TimmConfig:
    return TimmConfig.model_validate(_TIMM | changes)


def mae(**changes: object) -> MAEConfig:
    return MAEConfig.model_validate(_MAE | changes)


def simmim(**changes: object) -> SimMIMConfig:
    return SimMIMConfig.model_validate(_SIMMIM | changes)


FLAT = {
    "vit": vit(),
    "vit_registers": vit(pool="avg", num_registers=2, pos_embed="learned"),
    "timm_vit": timm_model(pool="token"),
    "deit3": timm_model(model="deit3_small_patch16_224", pool="token"),
    "clip": timm_model(model="vit_base_patch32_clip_224"),  # with a norm in front
    "siglip": timm_model(model="vit_base_patch16_siglip_224"),  # without class token
    "eva02": timm_model(model="eva02_tiny_patch14_224"),
    "dinov3": timm_model(model="vit_small_patch16_dinov3", pool="token"),
    "rope_mixed": timm_model(model="vit_small_patch16_rope_mixed_224"),
}
HIERARCHICAL = {
    "swin": timm_model(model="swin_tiny_patch4_window7_224", **_SWIN),
    "swinv2": timm_model(model="swinv2_tiny_window8_256", **_SWIN),
}
BACKBONES = FLAT | HIERARCHICAL  # with patches, which a MIM branch can hide


def timm_conv(model: str) -> TimmConfig:
    return timm_model(
        model=model, **dict.fromkeys(["patch_size", "embed_dim", "depth", "num_heads"])
    )


CONVOLUTIONAL: dict[str, BackboneConfig] = {
    "cnn": CNNConfig(name="cnn", width=4, depth=3, weights=None),
    "resnet": timm_conv("test_resnet"),
    "convnext": timm_conv("test_convnext"),  # with LayerNorm
    "efficientnet": timm_conv("test_efficientnet"),
    "mobilenet": timm_conv("mobilenetv3_small_050"),  # with a layer behind the pooling
    "regnet": timm_conv("regnetx_002"),
}
WITH_BATCH_NORM = [name for name in CONVOLUTIONAL if name != "convnext"]


def build(
    backbone: BackboneConfig,
    branch: MAEConfig | SimMIMConfig | None = None,
    *,
    image_size: int = IMAGE_SIZE,
    channels: int = CHANNELS,
    num_classes: int = CLASSES,
    mask_ratio: float = 0.5,
    seed: int = 0,
) -> SemiModel:
    return build_model(
        backbone,
        None if branch is None else Masked(mask_ratio=mask_ratio, branch=branch),
        image_size=image_size,
        channels=channels,
        num_classes=num_classes,
        seed=seed,
    )


def scramble(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw all weights anew: what starts at zero or at one would hide mistakes."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
        for statistic in running_statistics(model):  # a variance is above 0
            statistic.copy_(torch.rand(statistic.shape, generator=source) + 0.5)


def save(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def draw(channels: int = CHANNELS, size: int = IMAGE_SIZE, batch: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, size, size, generator=source)


def draw_noise(patches: int = PATCHES, batch: int = 3) -> Tensor:
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(2))
