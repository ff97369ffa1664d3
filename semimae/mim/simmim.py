"""The SimMIM branch: mask tokens in the encoder and a linear layer behind it."""

import torch
from torch import Tensor, nn

from semimae.backbones.base import Backbone
from semimae.mim.branch import MIMBranch
from semimae.mim.masking import Mask
from semimae.options.mim import SimMIMConfig
from semimae.patches import gather_patches


class SimMIM(MIMBranch):
    """Mask token and linear head (arXiv:2111.09886); the paper's own loss is ``l1`` on pixels.

    The encoder keeps all its tokens, so that any backbone will do, at the price of a full pass.
    """

    def __init__(self, config: SimMIMConfig, backbone: Backbone, mask_ratio: float) -> None:
        super().__init__(config, backbone, mask_ratio)
        self.num_prefix_tokens = backbone.num_prefix_tokens
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.token_dim))
        self.predict = nn.Linear(backbone.embed_dim, self.target_dim)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def reconstruct(self, backbone: Backbone, images: Tensor, noise: Tensor) -> tuple[Tensor, Mask]:
        """Hide patches of images and predict them: ``[B, L - K, target_dim]`` and the mask."""
        mask = self.mask(noise)
        tokens = backbone.tokenize(backbone.visible(images, mask.ids_keep))
        tokens = backbone.hide(tokens, mask.ids_hide, self.mask_token)
        encoded = backbone.encode(tokens)[:, self.num_prefix_tokens :]  # [B, L, D]
        prediction: Tensor = self.predict(gather_patches(encoded, mask.ids_hide))
        return prediction, mask
