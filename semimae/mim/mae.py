"""The MAE branch: the shared encoder sees visible patches, a small decoder predicts the rest."""

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from semimae.backbones.base import Backbone
from semimae.backbones.blocks import can_run_rows, run_blocks, run_rows
from semimae.mim.branch import MIMBranch
from semimae.mim.masking import Mask
from semimae.options.mim import MAEConfig
from semimae.patches import gather_patches
from semimae.positions import sincos_position_embedding

_norm = partial(nn.LayerNorm, eps=1e-6)


class MAE(MIMBranch):
    """Decoder and loss; the encoder is the backbone's, passed to ``forward``.

    Parameter names follow the published checkpoints, so that those can be read.
    """

    decoder_pos_embed: Tensor

    def __init__(self, config: MAEConfig, backbone: Backbone, mask_ratio: float) -> None:
        super().__init__(config, backbone, mask_ratio)
        dim = config.decoder_dim
        self.num_prefix_tokens = backbone.num_prefix_tokens
        self.decoder_embed = nn.Linear(backbone.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_blocks = nn.ModuleList(
            Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=_norm)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = _norm(dim)
        self.decoder_pred = nn.Linear(dim, self.target_dim)
        grid = backbone.image_size // backbone.patch_size
        position = sincos_position_embedding(dim, grid).float()
        prefix = torch.zeros(self.num_prefix_tokens, dim)  # these have no place in the image
        self.register_buffer("decoder_pos_embed", torch.cat([prefix, position]).unsqueeze(0))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def decode(self, latent: Tensor, mask: Mask) -> Tensor:
        """Predict the target at the hidden patches.

        The tokens stay in the mask's order, visible ones first: attention does not mind, and
        nothing has to be moved back. With ``trim`` the last block is computed for the hidden
        patches alone; all tokens are its keys and values.

        Args:
            latent: ``[B, prefix + K, D]``, the encoded visible patches.
            mask: Which patches those are.

        Returns:
            ``[B, L - K, target_dim]``, in the order of ``mask.ids_hide``.
        """
        num_prefix, num_hidden = self.num_prefix_tokens, mask.ids_hide.shape[1]
        prefix, position = self.decoder_pos_embed.tensor_split([num_prefix], dim=1)
        position = gather_patches(position, torch.cat(mask, dim=1))  # [B, L, dim], visible first
        position = torch.cat([prefix.expand(latent.shape[0], -1, -1), position], dim=1)
        tokens = self.decoder_embed(latent)
        hidden = self.mask_token.expand(latent.shape[0], num_hidden, -1).to(tokens.dtype)
        x = torch.cat([tokens, hidden], dim=1) + position
        wanted = slice(-num_hidden, None)
        if self.trim and can_run_rows(self.decoder_blocks[-1]):
            *blocks, last = self.decoder_blocks
            x = run_blocks(blocks, x, recompute=self.recompute)
            x = run_rows(last, x, wanted)
        else:
            x = run_blocks([*self.decoder_blocks], x, recompute=self.recompute)[:, wanted]
        prediction: Tensor = self.decoder_pred(self.decoder_norm(x))
        return prediction

    def reconstruct(self, backbone: Backbone, images: Tensor, noise: Tensor) -> tuple[Tensor, Mask]:
        """Hide patches of images and predict them: ``[B, L - K, target_dim]`` and the mask."""
        mask = self.mask(noise)
        tokens = backbone.tokenize(images, mask.ids_keep)
        return self.decode(backbone.encode(tokens, mask.ids_keep), mask), mask
