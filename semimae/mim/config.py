"""Options of the MIM branches. Free of torch, so that commands which only read them start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from semimae.types import Frozen, UserError

if TYPE_CHECKING:
    from semimae.backbones.base import Backbone
    from semimae.mim.mae import MAE

TargetName = Literal["pixels", "norm_pixels"]


class MAEConfig(Frozen):
    """A masked autoencoder (arXiv:2111.06377) on the shared encoder."""

    name: Literal["mae"] = Field(
        description="Masked autoencoder: the encoder sees visible patches."
    )
    lambda_mim: float = Field(ge=0, le=1000, description="Weight of the reconstruction loss.")
    target: TargetName = Field(description="What is predicted at each hidden patch.")
    decoder_dim: int = Field(ge=4, le=4096, description="Decoder width, a multiple of 4.")
    decoder_depth: int = Field(ge=1, le=32, description="Decoder blocks.")
    decoder_heads: int = Field(ge=1, le=64, description="Decoder heads; must divide decoder_dim.")

    def build(self, backbone: Backbone, mask_ratio: float) -> MAE:
        """Return the branch with fresh weights.

        Raises:
            UserError: If the decoder's sizes do not fit together.
        """
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise UserError(
                f"mim.decoder_dim={self.decoder_dim} must be a multiple of 4 and of "
                f"mim.decoder_heads={self.decoder_heads}."
            )
        from semimae.mim.mae import MAE

        return MAE(self, backbone, mask_ratio)


MIMConfig = (
    MAEConfig  # the registry: a new branch is a file, a class here and a member of this union
)


def num_hidden(num_patches: int, mask_ratio: float) -> int:
    """Return how many of ``num_patches`` are hidden.

    The hidden count is rounded, not the kept count cut off: ``int(20 * (1 - 0.8))`` keeps 3 of 20.

    Raises:
        ValueError: If nothing would be hidden or nothing kept.
    """
    hidden = round(num_patches * mask_ratio)
    if not 0 < hidden < num_patches:
        raise ValueError(
            f"mask_ratio={mask_ratio} hides {hidden} of {num_patches} patches; "
            "at least one must be hidden and one kept."
        )
    return hidden
