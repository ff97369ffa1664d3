"""Options of the backbones. Free of torch, so that commands which only read them start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from semimae.types import Frozen, UserError

if TYPE_CHECKING:
    from semimae.backbones.vit import ViT


class ViTConfig(Frozen):
    """A Vision Transformer (arXiv:2010.11929)."""

    name: Literal["vit"] = Field(description="Plain Vision Transformer.")
    patch_size: int = Field(ge=1, le=64, description="Side of a patch in pixels.")
    embed_dim: int = Field(ge=8, le=4096, description="Width; num_heads must divide it.")
    depth: int = Field(ge=1, le=64, description="Number of blocks.")
    num_heads: int = Field(ge=1, le=64, description="Attention heads.")
    mlp_ratio: float = Field(gt=0, le=16, description="Width of the MLP over embed_dim.")
    pool: Literal["token", "avg"] = Field(description="token: class token; avg: mean of patches.")
    num_registers: int = Field(ge=0, le=64, description="Register tokens (arXiv:2309.16588).")
    pos_embed: Literal["learned", "sincos"] = Field(
        description="learned, or fixed sine-cosine as in arXiv:2111.06377."
    )

    def build(self, image_size: int, channels: int, num_classes: int) -> ViT:
        """Return the backbone with fresh weights.

        Raises:
            UserError: If the sizes do not fit together.
        """
        if image_size % self.patch_size:
            raise UserError(
                f"data.image_size={image_size} is not a multiple of "
                f"backbone.patch_size={self.patch_size}; choose sizes that divide."
            )
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"backbone.embed_dim={self.embed_dim} is not a multiple of "
                f"backbone.num_heads={self.num_heads}."
            )
        from semimae.backbones.vit import ViT

        return ViT(self, image_size, channels, num_classes)


BackboneConfig = ViTConfig  # the registry: a new backbone is a file, a class here and a member
