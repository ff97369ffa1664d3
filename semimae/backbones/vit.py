"""Plain Vision Transformers of timm; the only file that touches timm's ViT internals."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from semimae.backbones.config import ViTConfig
from semimae.patches import gather_patches, patchify
from semimae.positions import sincos_position_embedding


class ViT(nn.Module):
    """A backbone (see ``backbones.base.Backbone``) around timm's ``VisionTransformer``."""

    def __init__(self, config: ViTConfig, image_size: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=image_size,
            patch_size=config.patch_size,
            in_chans=channels,
            num_classes=num_classes,
            global_pool=config.pool,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            reg_tokens=config.num_registers,
            fc_norm=False,  # timm would move the final norm behind the average pooling
        )
        self.image_size, self.patch_size, self.channels = image_size, config.patch_size, channels
        self.embed_dim: int = config.embed_dim
        self.num_patches: int = self.vit.patch_embed.num_patches
        self.num_prefix_tokens: int = self.vit.num_prefix_tokens
        self.num_layers = config.depth + 1
        self._initialise(config.pos_embed)

    def _initialise(self, pos_embed: str) -> None:
        """Initialise as arXiv:2111.06377 does: Xavier everywhere, also for the patch embedding.

        At small widths this starts much faster than timm's normal(0, 0.02).
        """
        for module in self.vit.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.vit.patch_embed.proj.weight.flatten(1))
        nn.init.normal_(self.vit.cls_token, std=0.02)
        if pos_embed == "sincos":
            grid = self.image_size // self.patch_size
            fixed = sincos_position_embedding(self.embed_dim, grid)
            with torch.no_grad():
                self.vit.pos_embed.zero_()
                self.vit.pos_embed[0, -self.num_patches :] = fixed
            self.vit.pos_embed.requires_grad_(False)

    def tokenize(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed patches and their positions: ``[B, L, D]``, or ``[B, K, D]`` of ``ids_keep``.

        The convolution is applied as a linear map, so that hidden pixels cost nothing.
        """
        patches = patchify(images, self.patch_size)  # [B, L, p * p * C]
        position = self.vit.pos_embed[:, -self.num_patches :]  # [1, L, D]
        if ids_keep is not None:
            patches = gather_patches(patches, ids_keep)
            position = gather_patches(position, ids_keep)
        proj = self.vit.patch_embed.proj
        weight = proj.weight.permute(0, 2, 3, 1).reshape(self.embed_dim, -1)
        return functional.linear(patches, weight, proj.bias) + position

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks on patch tokens: ``[B, prefix + K, D]``, after the final norm."""
        prefix = self.vit.cls_token
        if self.vit.reg_token is not None:
            prefix = torch.cat([prefix, self.vit.reg_token], dim=1)
        prefix = prefix + self.vit.pos_embed[:, : self.num_prefix_tokens]
        x = torch.cat([prefix.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.vit.blocks:
            x = block(x)
        encoded: Tensor = self.vit.norm(x)
        return encoded

    def pool(self, encoded: Tensor) -> Tensor:
        """Reduce encoded tokens to one feature per image, ``[B, D]``."""
        pooled: Tensor = self.vit.pool(encoded)
        return pooled

    def features(self, images: Tensor) -> Tensor:
        """Return pooled features ``[B, D]``, before the classifier."""
        return self.pool(self.encode(self.tokenize(images)))

    def classify(self, features: Tensor) -> Tensor:
        """Map features ``[B, D]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.vit.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        return self.classify(self.features(images))

    def reset_head(self) -> None:
        """Give the classifier fresh weights."""
        nn.init.xavier_uniform_(self.vit.head.weight)
        nn.init.zeros_(self.vit.head.bias)

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        name = parameter.removeprefix("vit.")
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        embedding = ("cls_token", "pos_embed", "reg_token", "patch_embed")
        return 0 if name.startswith(embedding) else self.num_layers
