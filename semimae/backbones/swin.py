"""Hierarchical transformers with windows; the only file that touches timm's Swin internals."""

from collections.abc import Sequence

import torch
from timm.models import group_parameters
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from semimae.backbones.blocks import run_blocks
from semimae.backbones.timm_base import TimmBackbone
from semimae.backbones.tuning import plain_name
from semimae.types import UserError


class Swin(TimmBackbone):
    """A backbone around timm's Swin (arXiv:2103.14030) and SwinV2 (arXiv:2111.09883).

    It merges tokens on its way. A patch, as the MIM branch sees it, is what one token of the last
    stage stands for: ``cells * cells`` tokens of the first, hidden as a whole.
    """

    can_drop_patches = False

    def __init__(self, swin: SwinTransformer | SwinTransformerV2) -> None:
        super().__init__(swin)
        self.cells = 2 ** (len(swin.layers) - 1)  # tokens of the first stage per side of a patch
        self.patch_size *= self.cells
        self.num_patches = (self.image_size // self.patch_size) ** 2
        matcher = swin.group_matcher(coarse=False)
        self._layer_ids: dict[str, int] = group_parameters(swin, matcher, reverse=True)
        self.num_layers = max(self._layer_ids.values())

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks, in their order."""
        return [block for stage in self.vit.layers for block in stage.blocks]

    @property
    def classifier(self) -> nn.Linear:
        """The last layer."""
        head: nn.Linear = self.vit.head.fc
        return head

    def tokenize(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed the small patches of the first stage: ``[B, L * cells * cells, token_dim]``.

        Raises:
            UserError: If ``ids_keep`` is given.
        """
        if ids_keep is not None:
            raise UserError("attention in windows needs all patches; choose mim.name: simmim.")
        tokens: Tensor = self.vit.patch_embed(images)  # [B, H, W, token_dim]
        return tokens.flatten(1, 2)

    def hide(self, tokens: Tensor, ids_hide: Tensor, mask_token: Tensor) -> Tensor:
        """Put a mask token ``[1, 1, token_dim]`` at all tokens of patches ``[B, K]``."""
        side = self.image_size // self.patch_size
        hidden = torch.zeros(len(tokens), side * side, dtype=torch.bool, device=tokens.device)
        hidden = hidden.scatter_(1, ids_hide, True).reshape(-1, side, side)
        hidden = hidden.repeat_interleave(self.cells, 1).repeat_interleave(self.cells, 2)
        return torch.where(hidden.reshape(len(tokens), -1, 1), mask_token.to(tokens.dtype), tokens)

    def encode(
        self, tokens: Tensor, ids_keep: Tensor | None = None, paths: Tensor | None = None
    ) -> Tensor:
        """Run all stages: ``[B, L, embed_dim]``, after the final norm."""
        assert ids_keep is None, "tokenize refused it"
        side = self.cells * self.image_size // self.patch_size
        x = tokens.unflatten(1, (side, side))
        parts = [None] * len(self.vit.layers)
        if paths is not None:
            parts = paths.split([2 * len(stage.blocks) for stage in self.vit.layers], dim=1)
        for stage, own in zip(self.vit.layers, parts, strict=True):
            x = run_blocks(stage.blocks, stage.downsample(x), own, recompute=self.recompute)
        encoded: Tensor = self.vit.norm(x)
        return encoded.flatten(1, 2)

    def pool(self, encoded: Tensor) -> Tensor:
        """Reduce encoded tokens to one feature per image, ``[B, embed_dim]``."""
        return encoded.mean(dim=1)

    def layer_id(self, parameter: str) -> int:
        """Return the depth of a parameter, 0 for the embedding; for layer-wise decay."""
        return self._layer_ids[plain_name(parameter.removeprefix("vit."))]
