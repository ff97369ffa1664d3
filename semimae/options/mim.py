"""Options of the MIM branches."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.options.train import Steps
from semimae.patches import num_hidden
from semimae.types import Frozen

TargetName = Literal["pixels", "norm_pixels", "hog", "teacher_features"]
MaskRatio = Annotated[float, Field(gt=0, lt=1)]
LossName = Literal["mse", "l1", "smooth_l1"]
LARGEST_WEIGHT = 1000.0  # for the reconstruction loss
_UNREAD = {"gradient_ratio": 1.0, "weighting_every": 1, "weighting_momentum": 0.0}
SMALLEST_BLOCK_GRID = 6  # in a smaller grid, noise cannot be smoothed: blocks are single patches


class MIMOptions(Frozen):
    """Options of all branches."""

    lambda_mim: float = Field(
        ge=0,
        le=LARGEST_WEIGHT,
        description="Weight of the reconstruction loss, for semi_mae and ssmae. With weighting: "
        "gradient, it is the weight of the first step, before the first measurement.",
    )
    weighting: Literal["fixed", "gradient"] = Field(
        description="fixed: use lambda_mim. gradient: adapt the weight such that the gradient of "
        "the reconstruction in the encoder is gradient_ratio times that of all other terms."
    )
    gradient_ratio: float = Field(
        gt=0,
        le=100,
        description="Gradient norm of the reconstruction divided by that of the other terms.",
    )
    weighting_every: Steps = Field(
        description="Steps between measurements of both norms. Each measurement costs a backward "
        "pass per term."
    )
    weighting_momentum: float = Field(
        ge=0, lt=1, description="Momentum of the running means of both norms, per measurement."
    )
    target: TargetName = Field(description="What to predict for each hidden patch.")
    loss: LossName = Field(description="Distance to the target: mse (MAE), l1 (SimMIM), smooth_l1.")
    masking: Literal["random", "block"] = Field(
        description="Hide patches independently, or in connected blocks (arXiv:2106.08254)."
    )
    mask_unit: int = Field(
        ge=1, le=64, description="Side, in patches, of the squares that are hidden as a whole."
    )

    def without_unread(self, *, alone: bool) -> Self:
        """Return the options with fixed values for all weighting keys that have no effect.

        Args:
            alone: Whether the reconstruction is the only loss. Its weight has no effect then.
        """
        if alone:
            return self.model_copy(update={"weighting": "fixed", "lambda_mim": 1.0} | _UNREAD)
        return self.model_copy(update=_UNREAD) if self.weighting == "fixed" else self

    def check_patches(self, side: int, num_values: int, mask_ratio: float) -> None:
        """Check that ``side * side`` patches of ``num_values`` can be hidden and predicted.

        Raises:
            ValueError: If not.
        """
        if self.target == "norm_pixels" and num_values < 2:
            raise ValueError(
                "mim.target=norm_pixels needs more than one value in a patch; choose "
                "mim.target: pixels or larger patches"
            )
        if side % self.mask_unit:
            raise ValueError(
                f"mim.mask_unit={self.mask_unit} does not divide the {side} patches along a side; "
                "choose a divisor"
            )
        units = side // self.mask_unit
        num_hidden(units**2, mask_ratio)
        if self.masking == "block" and units < SMALLEST_BLOCK_GRID:
            raise ValueError(
                f"mim.masking=block needs {SMALLEST_BLOCK_GRID} mask units along a side, there are "
                f"{units}; choose mim.masking: random or smaller patches"
            )


class MAEConfig(MIMOptions):
    """A masked autoencoder (arXiv:2111.06377) on the shared encoder."""

    name: Literal["mae"] = Field(
        description="Masked autoencoder: the encoder only sees visible patches."
    )
    decoder_dim: int = Field(ge=4, le=4096, description="Decoder width, a multiple of 4.")
    decoder_depth: int = Field(ge=1, le=32, description="Decoder blocks.")
    decoder_heads: int = Field(ge=1, le=64, description="Decoder heads. Must divide decoder_dim.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise ValueError(
                f"decoder_dim={self.decoder_dim} must be a multiple of 4 and of "
                f"decoder_heads={self.decoder_heads}"
            )
        return self


class SimMIMConfig(MIMOptions):
    """Mask tokens in the encoder and a linear head (arXiv:2111.09886), for any backbone."""

    name: Literal["simmim"] = Field(description="SimMIM: the encoder also sees mask tokens.")


# The registry: a new branch is a file, a class here and a member of this union.
MIMConfig = Annotated[MAEConfig | SimMIMConfig, Field(discriminator="name")]


class Masked(Frozen):
    """The branch of one run with its mask ratio, which is a separate key in params.yaml."""

    mask_ratio: MaskRatio
    branch: MIMConfig

    def check_patches(self, side: int, num_values: int) -> None:
        """Check that ``side * side`` patches of ``num_values`` can be hidden and predicted.

        Raises:
            ValueError: If not.
        """
        self.branch.check_patches(side, num_values, self.mask_ratio)
