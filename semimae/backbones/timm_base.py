"""What all backbones that are made of a timm model share."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from semimae.backbones.blocks import add_paths


class TimmBackbone(nn.Module):
    """Base of all backbones (see ``base.Backbone``); a family adds how its tokens flow."""

    vit: Any  # of timm, which has no types
    num_layers: int
    can_drop_patches = True
    trim = (
        True  # leave out the last block's work on tokens that are not pooled, where that is known
    )
    recompute = False  # keep no activations inside the blocks

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        embed = self.vit.patch_embed
        self.image_size: int = embed.img_size[0]
        self.patch_size: int = embed.patch_size[0]
        self.channels: int = getattr(embed, "channels", embed.proj.in_channels)
        self.token_dim: int = embed.proj.out_channels
        self.embed_dim: int = self.classifier.in_features
        self.num_patches = (self.image_size // self.patch_size) ** 2
        self.num_prefix_tokens = 0
        self.num_blocks = len(self.blocks)
        self.has_paths = add_paths(self.blocks)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks, in their order."""
        return list(self.vit.blocks)

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        head: nn.Linear = self.vit.head
        return head

    def tokenize(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed patches and their positions."""
        raise NotImplementedError

    def visible(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Blank all patches but ``ids_keep``, where tokens would see beyond their own patch."""
        return images

    def hide(self, tokens: Tensor, ids_hide: Tensor, mask_token: Tensor) -> Tensor:
        """Put a mask token, with its position, at some patches."""
        raise NotImplementedError

    def encode(
        self, tokens: Tensor, ids_keep: Tensor | None = None, paths: Tensor | None = None
    ) -> Tensor:
        """Run the blocks."""
        raise NotImplementedError

    def pool(self, encoded: Tensor) -> Tensor:
        """Reduce encoded tokens to one feature per image."""
        raise NotImplementedError

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        raise NotImplementedError

    def features(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Return pooled features ``[B, embed_dim]``, before the classifier."""
        return self.pool(self.encode(self.tokenize(images), paths=paths))

    def classify(self, features: Tensor) -> Tensor:
        """Map features ``[B, embed_dim]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.classifier(features)
        return logits

    def forward(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Map ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        return self.classify(self.features(images, paths))

    def reset_head(self) -> None:
        """Give the classifier fresh weights."""
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
