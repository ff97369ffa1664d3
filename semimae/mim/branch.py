"""What all MIM branches share: mask, target and loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from semimae.backbones.base import Backbone
from semimae.mim.masking import Mask, make_mask
from semimae.mim.targets import make_target
from semimae.options.mim import MIMOptions
from semimae.patches import gather_patches

LOSSES = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "smooth_l1": functional.smooth_l1_loss,
}


class MIMBranch(nn.Module):
    """Hides patches and scores a prediction of them; the encoder is passed to ``forward``.

    A branch says in ``reconstruct`` how it predicts.
    """

    trim = True  # leave out work that does not reach the prediction
    recompute = False  # keep no activations inside the decoder's blocks

    def __init__(self, options: MIMOptions, backbone: Backbone, mask_ratio: float) -> None:
        super().__init__()
        self.options = options
        self.mask_ratio = mask_ratio
        self.target = make_target(options.target)
        self.loss = LOSSES[options.loss]
        blank = torch.zeros(1, backbone.channels, backbone.image_size, backbone.image_size)
        self.target_dim = self.target(blank, backbone).shape[-1]

    def mask(self, noise: Tensor) -> Mask:
        """Choose the patches to hide by noise ``[B, L]``."""
        return make_mask(noise, self.mask_ratio, self.options)

    def reconstruct(self, backbone: Backbone, images: Tensor, noise: Tensor) -> tuple[Tensor, Mask]:
        """Hide patches of images and predict them: ``[B, L - K, target_dim]`` and the mask."""
        raise NotImplementedError

    def forward(
        self, backbone: Backbone, images: Tensor, noise: Tensor, teacher: Backbone | None = None
    ) -> Tensor:
        """Return the mean loss at the hidden patches, a scalar.

        Args:
            backbone: The shared encoder.
            images: ``[B, C, H, W]``, normalized.
            noise: ``[B, L]``, decides the mask.
            teacher: The encoder that a feature target is taken from; ``None``: ``backbone``.
        """
        prediction, mask = self.reconstruct(backbone, images, noise)
        target = self.target(images, backbone if teacher is None else teacher)
        target = gather_patches(target, mask.ids_hide)
        return self.loss(prediction.to(target.dtype), target)
