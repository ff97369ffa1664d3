"""What a backbone offers to the rest of the library."""

from typing import Protocol

from torch import Tensor


class Backbone(Protocol):
    """A feature extractor with a classifier.

    ``forward(images) == classify(pool(encode(tokenize(images))))``.
    """

    image_size: int  # pixels
    patch_size: int  # pixels, as the MIM branch sees it
    channels: int
    embed_dim: int  # width of an encoded token
    num_patches: int
    num_prefix_tokens: int  # class and register tokens in front of the patches
    num_layers: int  # embedding, blocks; for layer-wise decay

    def __call__(self, images: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        ...

    def tokenize(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed patches and their positions: ``[B, L, D]``, or ``[B, K, D]`` of ``ids_keep``."""
        ...

    def encode(self, tokens: Tensor) -> Tensor:
        """Run the blocks on patch tokens: ``[B, prefix + K, D]``, after the final norm."""
        ...

    def pool(self, encoded: Tensor) -> Tensor:
        """Reduce encoded tokens to one feature per image, ``[B, D]``."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Return pooled features ``[B, D]``, before the classifier."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Map features ``[B, D]`` to logits ``[B, num_classes]``."""
        ...

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        ...
