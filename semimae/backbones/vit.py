"""Vision Transformers of timm; the only file that touches timm's ViT internals."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from semimae.backbones.blocks import can_run_rows, run_blocks, run_rows
from semimae.backbones.conv_stem import ConvStem, visible
from semimae.backbones.timm_base import TimmBackbone
from semimae.options.backbone import ViTConfig
from semimae.patches import gather_patches, patchify
from semimae.positions import sincos_position_embedding


class ViT(TimmBackbone):
    """A backbone around timm's ``VisionTransformer``: ViT, DeiT, DeiT-III."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__(vit)
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.num_layers = len(vit.blocks) + 1
        # timm's rule for pooling by the mean; the norm is the final one, wherever it stands.
        self.norm_is_last = isinstance(vit.norm, nn.Identity)
        if self.norm_is_last:
            self.reset_head()

    def tokenize(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed patches and their positions: ``[B, L, D]``, or ``[B, K, D]`` of ``ids_keep``.

        Patches are embedded by a linear map, so that hidden pixels cost nothing. A convolutional
        stem sees the whole image, in which hidden patches are blank.
        """
        position = self._position()  # [1, L, D]
        if ids_keep is not None:
            position = None if position is None else gather_patches(position, ids_keep)
        tokens = self._embed(images, ids_keep)
        return tokens if position is None else tokens + position

    def _embed(self, images: Tensor, ids_keep: Tensor | None) -> Tensor:
        embed = self.vit.patch_embed
        if isinstance(embed, ConvStem):
            if ids_keep is None:
                return embed(images)  # type: ignore[no-any-return]
            return gather_patches(embed(self.visible(images, ids_keep)), ids_keep)
        patches = patchify(images, self.patch_size)  # [B, L, p * p * C]
        if ids_keep is not None:
            patches = gather_patches(patches, ids_keep)
        weight = embed.proj.weight.permute(0, 2, 3, 1).reshape(self.embed_dim, -1)
        tokens: Tensor = embed.norm(functional.linear(patches, weight, embed.proj.bias))
        return tokens

    def visible(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Blank all patches but ``ids_keep``, where tokens would see beyond their own patch."""
        if not isinstance(self.vit.patch_embed, ConvStem):
            return images
        return visible(images, ids_keep, self.patch_size)

    def hide(self, tokens: Tensor, ids_hide: Tensor, mask_token: Tensor) -> Tensor:
        """Put a mask token ``[1, 1, D]``, with its position, at patches ``[B, K]``."""
        hidden = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        hidden.scatter_(1, ids_hide, True)
        position = self._position()
        mask = mask_token if position is None else mask_token + position
        return torch.where(hidden.unsqueeze(-1), mask.to(tokens.dtype), tokens)

    def encode(
        self, tokens: Tensor, ids_keep: Tensor | None = None, paths: Tensor | None = None
    ) -> Tensor:
        """Run the blocks: ``[B, prefix + K, D]``, after the final norm.

        ``ids_keep`` is not needed: the tokens hold their positions.
        """
        return self._normalized(self._run(tokens, ids_keep, paths))

    def _run(self, tokens: Tensor, ids_keep: Tensor | None, paths: Tensor | None) -> Tensor:
        return run_blocks(self.blocks, self._add_prefix(tokens), paths, recompute=self.recompute)

    def _normalized(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.vit.fc_norm(self.vit.norm(x))  # one of them is the identity
        return normalized

    def features(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Return pooled features ``[B, D]``, before the classifier.

        If the class token is pooled, the other tokens leave the last block as keys and values.
        With ``pool: avg`` the mean of the patches is normalized, not each patch.

        Source: arXiv:2111.06377, as its published fine-tuning pools, and timm's ``fc_norm``.
        """
        if self.norm_is_last:
            return self._normalized(self.pool(self._run(self.tokenize(images), None, paths)))
        *blocks, last = self.blocks
        if not (self.trim and self.vit.global_pool == "token" and can_run_rows(last)):
            return super().features(images, paths)
        own, of_last = None, None
        if paths is not None:
            own, of_last = paths.tensor_split([2 * len(blocks)], dim=1)
        x = self._add_prefix(self.tokenize(images))
        x = run_blocks(blocks, x, own, recompute=self.recompute)
        feature: Tensor = self.vit.norm(run_rows(last, x, slice(0, 1), of_last))[:, 0]
        return feature

    def pool(self, encoded: Tensor) -> Tensor:
        """Reduce tokens to one per image, ``[B, D]``."""
        pooled: Tensor = self.vit.pool(encoded)
        return pooled

    def reset_head(self) -> None:
        """Give the classifier fresh weights; next to none behind the mean of the patches.

        Source: arXiv:2111.06377's published fine-tuning draws them from a truncated normal
        distribution of standard deviation 2e-5; Semi-ViT (arXiv:2208.05688) scales timm's 0.02 by
        0.001.
        """
        if not self.norm_is_last:
            super().reset_head()
            return
        nn.init.trunc_normal_(self.classifier.weight, std=2e-5)
        nn.init.zeros_(self.classifier.bias)

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        name = parameter.removeprefix("vit.")
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        embedding = ("cls_token", "pos_embed", "reg_token", "patch_embed", "norm_pre")
        return 0 if name.startswith(embedding) else self.num_layers

    def _position(self) -> Tensor | None:
        """Return the positions of the patches, ``[1, L, D]``, if they are added to the tokens."""
        embedding: Tensor | None = self.vit.pos_embed
        return None if embedding is None else embedding[:, -self.num_patches :]

    def _add_prefix(self, tokens: Tensor) -> Tensor:
        """Put class and register tokens in front: the input of the first block."""
        extra = [t for t in (self.vit.cls_token, self.vit.reg_token) if t is not None]
        if extra:
            prefix = torch.cat(extra, dim=1)
            position = self.vit.pos_embed
            if position is not None and position.shape[1] > self.num_patches:
                prefix = prefix + position[:, : self.num_prefix_tokens]
            tokens = torch.cat([prefix.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        x: Tensor = self.vit.norm_pre(tokens)
        return x


def timm_arguments(
    config: ViTConfig, image_size: int, channels: int, num_classes: int
) -> dict[str, Any]:
    """Return what timm's ``VisionTransformer`` is made of; the values are plain JSON."""
    return {
        "img_size": image_size,
        "patch_size": config.patch_size,
        "in_chans": channels,
        "num_classes": num_classes,
        "global_pool": "token" if config.pool == "token" else "avg",
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "reg_tokens": config.num_registers,
        "init_values": config.layer_scale,
        **({"fc_norm": False} if config.pool == "norm_avg" else {}),
    }


def plain_vit(config: ViTConfig, image_size: int, channels: int, num_classes: int) -> ViT:
    """Return a Vision Transformer of the given sizes with fresh weights."""
    model = VisionTransformer(**timm_arguments(config, image_size, channels, num_classes))
    if config.stem == "conv":
        model.patch_embed = ConvStem(
            image_size, config.patch_size, channels, config.stem_width, config.embed_dim
        )
    _initialize(model)
    backbone = ViT(model)
    if config.pos_embed == "sincos":
        fixed = sincos_position_embedding(config.embed_dim, image_size // config.patch_size)
        with torch.no_grad():
            backbone.vit.pos_embed.zero_()
            backbone.vit.pos_embed[0, -backbone.num_patches :] = fixed
        backbone.vit.pos_embed.requires_grad_(False)
    return backbone


def _initialize(vit: VisionTransformer) -> None:
    """Initialize as arXiv:2111.06377 does: Xavier everywhere, also for the patch embedding.

    At small widths this starts much faster than timm's normal(0, 0.02).
    """
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if not isinstance(vit.patch_embed, ConvStem):
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.flatten(1))
    nn.init.normal_(vit.cls_token, std=0.02)
