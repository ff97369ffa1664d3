"""What all backbones share that are made of a timm model with patches."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from semimae.backbones.blocks import add_paths
from semimae.backbones.feature_extractor import FeatureExtractor


class TimmBackbone(FeatureExtractor):
    """Base of transformers; a family adds how its tokens flow."""

    vit: Any  # of timm, which has no types

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

    def features(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Return pooled features ``[B, embed_dim]``, before the classifier."""
        return self.pool(self.encode(self.tokenize(images), paths=paths))
