"""Options of the backbones."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from semimae.files import file_hash
from semimae.options.train import CellTrain
from semimae.types import Frozen, PathText, UserError

Count = Annotated[int, Field(ge=1, le=4096)]
PerStage = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]  # YAML has lists
Pool = Literal["token", "avg", "norm_avg"]
Weights = Annotated[
    PathText | None,
    Field(
        description="null: random initialization; timm:TAG: timm's pretrained weights "
        "(timm:default is timm's default tag); hf:ORG/NAME or hf:ORG/NAME@REVISION: a ViT "
        "on the Hugging Face Hub; otherwise a .safetensors or .pth file, relative to "
        "the data folder.",
    ),
]
Tuning = Literal["full", "lora", "bitfit", "head"]
_WIDEST = 4096  # channels


class LoRAConfig(Frozen):
    """Low-rank factors beside frozen matrices (arXiv:2106.09685)."""

    rank: int = Field(ge=1, le=1024, description="Rank of the update of each matrix.")
    alpha: float = Field(gt=0, le=1e4, description="The update is scaled by alpha / rank.")
    targets: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        description="Linear layers inside the blocks, by their names in timm: qkv, proj, fc1, fc2."
    )


class BackboneOptions(Frozen):
    """What all backbones have in common."""

    pool: Pool = Field(
        description="token: class token; avg: mean of the patches, then the final norm, and a "
        "classifier that starts near zero (arXiv:2111.06377). Swin, EVA-02 and DINOv3's ViT have "
        "the norm first. norm_avg, for name: vit: the final norm of each patch, then the mean."
    )
    weights: Weights
    weights_prefix: str | None = Field(
        min_length=1,
        max_length=200,
        description="Which model to load if the file has several, such as teacher. null: a "
        "moving average or teacher if there is one. The log says which one was loaded.",
    )
    tuning: Tuning = Field(
        description="Which weights of the backbone are trained, in addition to the classifier. "
        "full: all; lora: low-rank updates of some matrices; bitfit: the biases "
        "(arXiv:2106.10199); head: none. All but full need weights. The decoder of the "
        "MIM branch is always trained."
    )
    lora: LoRAConfig | None = Field(description="Used with tuning: lora; null otherwise is fine.")

    @model_validator(mode="after")
    def _has_something_to_tune(self) -> Self:
        if self.tuning != "full" and self.weights is None:
            raise ValueError(
                f"tuning={self.tuning} keeps most weights as they begin, and weights=null begins "
                "with fresh ones; set weights, or tuning: full"
            )
        if self.tuning == "lora" and self.lora is None:
            raise ValueError("tuning=lora needs lora: {rank, alpha, targets}, which is null")
        return self

    def without_unread(self, tunings: Collection[str] = ()) -> Self:
        """Return the options without those that other tunings than its own and these read."""
        reads = "lora" in {self.tuning, *tunings}
        return self if reads else self.model_copy(update={"lora": None})


class ViTConfig(BackboneOptions):
    """A Vision Transformer (arXiv:2010.11929) of any size."""

    name: Literal["vit"] = Field(description="Plain Vision Transformer.")
    patch_size: int = Field(ge=1, le=64, description="Side of a patch in pixels.")
    stem: Literal["patch", "conv"] = Field(
        description="patch: a linear map of each patch; conv: overlapping convolutions, for "
        "training from few labels (arXiv:2106.14881)."
    )
    stem_width: int = Field(
        ge=8,
        le=1024,
        multiple_of=8,
        description="Channels of the first stage of stem: conv; each later stage doubles them.",
    )
    embed_dim: int = Field(ge=8, le=4096, description="Width; num_heads must divide it.")
    depth: int = Field(ge=1, le=64, description="Number of blocks.")
    num_heads: int = Field(ge=1, le=64, description="Attention heads.")
    mlp_ratio: float = Field(gt=0, le=16, description="Width of the MLP over embed_dim.")
    layer_scale: Annotated[float, Field(gt=0, le=1)] | None = Field(
        description="First value of a learned factor on each residual branch (arXiv:2103.17239); "
        "null: none."
    )
    num_registers: int = Field(ge=0, le=64, description="Register tokens (arXiv:2309.16588).")
    pos_embed: Literal["learned", "sincos"] = Field(
        description="learned, or fixed sine-cosine as in arXiv:2111.06377."
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not a multiple of num_heads={self.num_heads}"
            )
        if self.stem == "conv" and (self.patch_size < 2 or self.patch_size.bit_count() != 1):
            raise ValueError(
                f"patch_size={self.patch_size} is not a power of two, which stem=conv needs; "
                "allowed: 2, 4, 8, 16, 32, 64"
            )
        if self.pos_embed == "sincos" and self.embed_dim % 4:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not a multiple of 4, which pos_embed=sincos needs"
            )
        _refuse_tag(self.weights, self.name)
        return self

    def patches_per_side(self, image_size: int) -> int | None:
        """Return the patches per side of an image.

        Raises:
            ValueError: If the patches do not fill it.
        """
        if image_size % self.patch_size:
            raise ValueError(
                f"data.image_size={image_size} is not a multiple of "
                f"backbone.patch_size={self.patch_size}; choose sizes that divide"
            )
        return image_size // self.patch_size


class TimmConfig(BackboneOptions):
    """A model of timm by its name: a ViT, DeiT, DeiT-III, EVA-02, DINOv3's ViT, Swin or SwinV2.

    Or, for methods without a MIM branch, a ResNet, ConvNeXt, EfficientNet, MobileNet or RegNet, all
    of whose sizes are ``null``. ``null`` leaves a size as the name says it.
    """

    name: Literal["timm"] = Field(description="A model of timm.")
    model: str = Field(min_length=1, description="Name in timm, e.g. deit3_small_patch16_224.")
    patch_size: Count | None = Field(description="Side of a patch in pixels.")
    embed_dim: Count | None = Field(description="Width; of Swin, that of its first stage.")
    depth: Count | PerStage | None = Field(description="Blocks; for Swin a list, one per stage.")
    num_heads: Count | PerStage | None = Field(description="Heads; for Swin a list, one per stage.")
    window_size: Count | None = Field(description="Swin: side of an attention window in tokens.")

    def patches_per_side(self, image_size: int) -> int | None:
        """Return ``None``: the patches per side are known when the model is built."""
        return None


class CNNConfig(Frozen):
    """A plain convolutional network, for methods without a MIM branch.

    A block is a 3x3 convolution, BatchNorm, ReLU and 2x2 max pooling.
    """

    pool: ClassVar[Pool] = "avg"
    weights_prefix: ClassVar[None] = None
    tuning: ClassVar[Tuning] = "full"
    lora: ClassVar[None] = None

    name: Literal["cnn"] = Field(description="Plain convolutional network.")
    width: int = Field(ge=1, le=1024, description="Channels of the first block.")
    depth: int = Field(ge=1, le=12, description="Blocks, each twice as wide as the one before.")
    weights: Weights

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.widths[-1] > _WIDEST:
            raise ValueError(
                f"width={self.width} with depth={self.depth} ends with {self.widths[-1]} channels; "
                f"at most {_WIDEST} are allowed, lower one of them"
            )
        _refuse_tag(self.weights, self.name)
        return self

    def without_unread(self, tunings: Collection[str] = ()) -> Self:
        """Return itself: it reads all that it has."""
        return self

    @property
    def widths(self) -> list[int]:
        """Channels of each block."""
        return [self.width * 2**block for block in range(self.depth)]

    def patches_per_side(self, image_size: int) -> int | None:
        """Return ``None``: it has no patches."""
        return None


# The registry: a new backbone is a file, a class here and a member of this union.
BackboneConfig = Annotated[ViTConfig | TimmConfig | CNNConfig, Field(discriminator="name")]


def weights_hash(weights: str | None, root: Path) -> str | None:
    """Return the SHA-256 of a file of weights below ``root``; ``None`` where there is no file."""
    if weights is None or weights.startswith(("timm:", "hf:")):
        return None
    try:
        return file_hash(root / weights)
    except OSError as error:
        raise UserError(f"backbone.weights={weights}: {error.strerror}: {root / weights}") from None


def _refuse_tag(weights: str | None, name: str) -> None:
    if (weights or "").startswith("timm:"):
        raise ValueError(
            f"weights={weights} needs backbone.name: timm, whose model it belongs to; "
            f"for backbone.name: {name} give a file"
        )


def no_patches(model: str) -> ValueError:
    """Return what to say of a convolutional network for a method with a MIM branch."""
    return ValueError(
        f"{model} is a convolutional network, which has no patches that the method's MIM branch "
        "could hide; choose backbone.name: vit, or a method without that branch, such as "
        "supervised or fixmatch"
    )


def check_joint_pass(model: str, train: CellTrain) -> None:
    """Check that a step runs its images once and together, as BatchNorm's statistics need it.

    Args:
        model: What messages call the backbone.
        train: The section of params.yaml.

    Raises:
        ValueError: If it does not.
    """
    reason = f"is not for {model}, whose BatchNorm takes its statistics from the whole batch"
    if train.accumulate > 1:
        raise ValueError(f"train.accumulate={train.accumulate} {reason}; set it to 1")
    if train.processes > 1:
        raise ValueError(f"train.processes={train.processes} {reason}; set it to 1")
    if train.recompute:
        raise ValueError(f"train.recompute=true {reason}, each once; set it to false")
    if train.batch_size < 2:
        raise ValueError(f"train.batch_size=1 {reason}; set it to 2 or more")
