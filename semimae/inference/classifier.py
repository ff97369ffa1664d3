"""A trained model that takes raw images."""

import torch
from torch import Tensor, nn

from semimae.model_file import Trained


class Classifier(nn.Module):
    """A model that normalizes its images itself. All exports are made from it."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.backbone: nn.Module = trained.model.backbone  # type: ignore[assignment]
        self.temperature = trained.info.temperature or 1.0
        for name in ("mean", "std"):
            level = torch.tensor(getattr(trained.info, name)).mul(255).view(1, -1, 1, 1)
            self.register_buffer(name, level)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images ``[B, S, S, C]`` to inputs of the backbone, ``[B, C, S, S]``."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images ``[B, S, S, C]`` to calibrated logits ``[B, num_classes]``."""
        logits: Tensor = self.backbone(self.normalize(images)) / self.temperature
        return logits
