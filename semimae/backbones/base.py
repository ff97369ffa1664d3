"""What a backbone offers to the rest of the library."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn


class Backbone(Protocol):
    """A feature extractor with a classifier.

    ``forward(images) == classify(features(images))``, and where it has patches
    ``features(images) == pool(encode(tokenize(images)))``.
    """

    image_size: int  # pixels
    patch_size: int  # pixels, as the MIM branch sees it: of hierarchical models the total stride
    channels: int
    token_dim: int  # width of a token, before encoding
    embed_dim: int  # width of an encoded token
    num_patches: int  # 0 if it has none
    num_prefix_tokens: int  # class and register tokens in front of the patches
    num_blocks: int
    has_paths: bool  # whether residual branches can be left out, which ``paths`` asks for
    num_layers: int  # embedding, blocks; for layer-wise decay
    has_patches: bool  # whether there are ``tokenize`` to ``pool``, which a MIM branch needs
    can_drop_patches: bool  # whether ``tokenize`` and ``encode`` take ``ids_keep``
    mixes_images: bool  # whether in training an image's features depend on the others of its pass
    trim: bool  # whether ``features`` may leave out work that does not reach them
    recompute: bool  # whether activations inside blocks are computed again for the gradient

    @property
    def classifier(self) -> nn.Linear:
        """The last layer, which alone no other branch shares."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over all weights."""
        ...

    def __call__(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Map ``[B, C, H, W]`` to logits ``[B, num_classes]``.

        ``paths`` ``[B, 2 * num_blocks]`` are factors of the residual branches (``blocks.py``).
        """
        ...

    def tokenize(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed patches and their positions: ``[B, T, token_dim]``.

        ``T`` is the number of patches, or of those in ``ids_keep`` ``[B, K]``; hierarchical models
        have several tokens per patch.
        """
        ...

    def visible(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Return the images with all patches but ``ids_keep`` ``[B, K]`` blank.

        Where a token sees its own patch alone, the images may be returned as they are.
        """
        ...

    def hide(self, tokens: Tensor, ids_hide: Tensor, mask_token: Tensor) -> Tensor:
        """Put a mask token ``[1, 1, token_dim]``, with its position, at patches ``[B, K]``."""
        ...

    def encode(
        self, tokens: Tensor, ids_keep: Tensor | None = None, paths: Tensor | None = None
    ) -> Tensor:
        """Run the blocks: ``[B, prefix + L, embed_dim]``, after the final norm.

        ``ids_keep`` ``[B, K]`` are the patches that the tokens belong to, if not all; ``paths``
        is as for the whole.
        """
        ...

    def features(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Return pooled features ``[B, embed_dim]``, before the classifier."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Map features ``[B, embed_dim]`` to logits ``[B, num_classes]``."""
        ...

    def reset_head(self) -> None:
        """Give the classifier fresh weights."""
        ...

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        ...
