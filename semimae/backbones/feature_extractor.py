"""What all backbones share: features, and a linear classifier on top of them."""

from torch import Tensor, nn


class FeatureExtractor(nn.Module):
    """Base of all backbones (see ``base.Backbone``)."""

    trim = True  # leave out work on tokens that are not pooled, where that is known
    recompute = False  # keep no activations inside the blocks
    has_patches = True
    can_drop_patches = True
    mixes_images = False
    has_paths = False
    num_layers: int

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        raise NotImplementedError

    def features(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Return pooled features ``[B, embed_dim]``, before the classifier."""
        raise NotImplementedError

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        raise NotImplementedError

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
