"""Options of the MIM branches. Free of torch, so that commands which only read them start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.types import Frozen, UserError

if TYPE_CHECKING:
    from semimae.backbones.base import Backbone
    from semimae.mim.mae import MAE
    from semimae.mim.simmim import SimMIM

TargetName = Literal["pixels", "norm_pixels", "hog", "teacher_features"]
LossName = Literal["mse", "l1", "smooth_l1"]
SMALLEST_BLOCK_GRID = 6  # below it the noise cannot be smoothed and blocks would be single patches


class MIMOptions(Frozen):
    """What all branches have in common."""

    lambda_mim: float = Field(
        ge=0, le=1000, description="Weight of the reconstruction loss, for semi_mae and ssmae."
    )
    target: TargetName = Field(description="What is predicted at each hidden patch.")
    loss: LossName = Field(description="Distance to the target: mse (MAE), l1 (SimMIM), smooth_l1.")
    masking: Literal["random", "block"] = Field(
        description="Hide patches independently, or in connected blocks (arXiv:2106.08254)."
    )
    mask_unit: int = Field(
        ge=1, le=64, description="Patches per side of a square that is hidden as a whole."
    )

    def check_patches(self, grid: int, num_values: int, mask_ratio: float) -> None:
        """Check that ``grid * grid`` patches of ``num_values`` can be hidden and predicted.

        Raises:
            ValueError: If not.
        """
        if self.target == "norm_pixels" and num_values < 2:
            raise ValueError(
                "mim.target=norm_pixels needs more than one value in a patch; choose "
                "mim.target: pixels or larger patches"
            )
        if grid % self.mask_unit:
            raise ValueError(
                f"mim.mask_unit={self.mask_unit} does not divide the {grid} patches along a side; "
                "choose a divisor"
            )
        units = grid // self.mask_unit
        num_hidden(units**2, mask_ratio)
        if self.masking == "block" and units < SMALLEST_BLOCK_GRID:
            raise ValueError(
                f"mim.masking=block needs {SMALLEST_BLOCK_GRID} mask units along a side, there are "
                f"{units}; choose mim.masking: random or smaller patches"
            )


class MAEConfig(MIMOptions):
    """A masked autoencoder (arXiv:2111.06377) on the shared encoder."""

    name: Literal["mae"] = Field(
        description="Masked autoencoder: the encoder sees visible patches only."
    )
    decoder_dim: int = Field(ge=4, le=4096, description="Decoder width, a multiple of 4.")
    decoder_depth: int = Field(ge=1, le=32, description="Decoder blocks.")
    decoder_heads: int = Field(ge=1, le=64, description="Decoder heads; must divide decoder_dim.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise ValueError(
                f"decoder_dim={self.decoder_dim} must be a multiple of 4 and of "
                f"decoder_heads={self.decoder_heads}"
            )
        return self

    def build(self, backbone: Backbone, mask_ratio: float) -> MAE:
        """Return the branch with fresh weights.

        Raises:
            UserError: If sizes do not fit together, or the backbone needs all patches.
        """
        if not backbone.can_drop_patches:
            raise UserError(
                "mim.name=mae hides patches by leaving them out, and windowed attention needs them "
                "all; choose mim.name: simmim, which puts mask tokens in their place."
            )
        _check_patches(self, backbone, mask_ratio)
        from semimae.mim.mae import MAE

        return MAE(self, backbone, mask_ratio)


class SimMIMConfig(MIMOptions):
    """Mask tokens in the encoder and a linear head (arXiv:2111.09886); for any backbone."""

    name: Literal["simmim"] = Field(description="SimMIM: the encoder sees mask tokens too.")

    def build(self, backbone: Backbone, mask_ratio: float) -> SimMIM:
        """Return the branch with fresh weights.

        Raises:
            UserError: If sizes do not fit together.
        """
        _check_patches(self, backbone, mask_ratio)
        from semimae.mim.simmim import SimMIM

        return SimMIM(self, backbone, mask_ratio)


# The registry: a new branch is a file, a class here and a member of this union.
MIMConfig = Annotated[MAEConfig | SimMIMConfig, Field(discriminator="name")]


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


def _check_patches(options: MIMOptions, backbone: Backbone, mask_ratio: float) -> None:
    size = backbone.patch_size
    try:
        options.check_patches(backbone.image_size // size, size**2 * backbone.channels, mask_ratio)
    except ValueError as error:
        raise UserError(str(error)) from None
