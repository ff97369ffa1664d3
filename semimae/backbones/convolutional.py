"""Convolutional networks, for methods that hide no patches."""

from typing import Any

import timm.models
from torch import Tensor, nn

from semimae.backbones.batch_norm import running_statistics
from semimae.backbones.feature_extractor import FeatureExtractor


class ConvNet(FeatureExtractor):
    """A backbone around one of timm's convolutional networks, or one with the same interface."""

    vit: Any  # the network; files of weights hold this name, whatever the architecture
    has_patches = can_drop_patches = False
    num_patches = num_prefix_tokens = num_blocks = 0

    def __init__(self, network: nn.Module, image_size: int, channels: int) -> None:
        super().__init__()
        self.vit = network
        self.image_size, self.channels = image_size, channels
        self.embed_dim: int = self.classifier.in_features
        self.mixes_images = bool(running_statistics(network))
        matcher = self.vit.group_matcher(coarse=False)
        self._layer_ids: dict[str, int] = timm.models.group_parameters(
            network, matcher, reverse=True
        )
        self.num_layers = max(self._layer_ids.values())

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        head: nn.Linear = self.vit.get_classifier()
        return head

    def features(self, images: Tensor, paths: Tensor | None = None) -> Tensor:
        """Return features ``[B, embed_dim]``, averaged over the image, before the classifier."""
        assert paths is None, "it has none"
        self.vit.set_grad_checkpointing(self.recompute)
        features: Tensor = self.vit.forward_head(self.vit.forward_features(images), pre_logits=True)
        return features

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the first layer; for layer-wise decay."""
        return self._layer_ids[parameter.removeprefix("vit.")]
