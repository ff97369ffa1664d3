"""Everything that decides which images are read and how views are made of them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.types import Frozen, PathText

Side = Annotated[int, Field(ge=4, le=4096)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Level = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(ge=1e-6, le=1)]
PerChannel = Field(strict=False, min_length=1, max_length=3)
# Of the fields below, those that `prepare` reads.
READ_BY_PREPARE = frozenset(
    {
        "root",
        "manifest",
        "image_size",
        "channels",
        "on_bad_image",
        "pack_max_side",
        "white_level",
        "cache_size",
        "std",
        "test_fraction",
    }
)


class CellData(Frozen):
    """What decides which images a run sees, and how."""

    image_size: Side = Field(description="Height and width in pixels that the model sees.")
    channels: Literal[1, 3] = Field(description="1: gray, 3: RGB; images are converted.")
    white_level: int | None = Field(
        ge=1,
        le=65535,
        description="Value that becomes white in gray images of more than 8 bits, e.g. 4095 if 12 "
        "of 16 bits are used. null: 65535.",
    )
    pack_max_side: int = Field(
        ge=0,
        le=4096,
        description="If no image has a longer side than this, all are packed into one array.",
    )
    cache_size: Side | None = Field(
        description="Shorter side in pixels of copies that `prepare` makes of images that are not "
        "packed; they are read instead, which saves decoding. null: none."
    )
    mean: Annotated[tuple[Level, ...], PerChannel] | None = Field(
        description="Per channel; null: measured by prepare."
    )
    std: Annotated[tuple[Spread, ...], PerChannel] | None = Field(
        description="Per channel; null: measured by prepare."
    )
    test_fraction: Fraction = Field(
        gt=0,
        description="Share of the images held out for testing where the dataset has no test set.",
    )
    val_fraction: Fraction = Field(
        gt=0, description="Share of the labeled training images held out for model selection."
    )
    include_labeled: bool = Field(
        description="Whether labeled images also serve as unlabeled ones."
    )
    labeled_list: PathText | None = Field(
        description="File with one image name per line that names the labeled images."
    )
    crop: Literal["pad", "resized"] = Field(
        description="pad: shift by up to crop_padding pixels; resized: random resized crop."
    )
    crop_padding: int = Field(ge=0, le=64, description="Pixels, for crop=pad.")
    crop_min_scale: float = Field(
        gt=0, le=1, description="Smallest share of the area, for crop=resized."
    )
    hflip: bool = Field(description="Mirror half of the views left to right.")
    color_jitter: float = Field(
        ge=0,
        le=1,
        description="Largest change of brightness, contrast and saturation, as a factor, in views "
        "without RandAugment: the weak ones. 0: none.",
    )
    randaugment_ops: int = Field(ge=0, le=8, description="Operations per strong view.")
    randaugment_magnitude: int = Field(
        ge=0,
        le=30,
        description="Strength of each, 0 to 30; timm counts to 10, so m9 there is 27 here.",
    )
    randaugment_magnitude_std: Annotated[float, Field(ge=0, le=30)] | Literal["uniform"] = Field(
        description="Standard deviation of the magnitude, drawn per operation and image; timm's "
        "mstd0.5 is 1.5 here. 0: always the same; uniform: evenly from 0 to "
        "randaugment_magnitude, as FixMatch draws."
    )
    randaugment_probability: float = Field(
        ge=0, le=1, description="With which each operation is applied; timm: 0.5."
    )
    cutout: float = Field(
        ge=0,
        le=1,
        description="Largest side of the square erased in each strong view, share of the image.",
    )
    erasing: float = Field(
        ge=0,
        le=1,
        description="Probability with which a rectangle of a strong view is erased "
        "(arXiv:1708.04896). 0: never.",
    )
    erasing_fill: Literal["mean", "noise"] = Field(
        description="What an erased rectangle holds: the mean color, or normal noise per pixel."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.crop == "pad" and self.crop_padding >= self.image_size:
            raise ValueError(
                f"crop_padding={self.crop_padding} must be less than "
                f"image_size={self.image_size}: padding mirrors the image"
            )
        if self.cache_size is not None and self.cache_size < self.image_size:
            raise ValueError(
                f"cache_size={self.cache_size} is smaller than image_size={self.image_size}; "
                "allowed: that or more, or null"
            )
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is not None and len(values) != self.channels:
                raise ValueError(
                    f"{key} has {len(values)} values for channels={self.channels}; "
                    "give one per channel"
                )
        return self


class DataConfig(CellData):
    """The section ``data``: also how the images are reached, which decides no weight."""

    root: PathText | None = Field(
        description="Folder that holds the images; null: $SEMIMAE_DATA, else data/ beside dvc.yaml."
    )
    manifest: PathText = Field(description="File of dataset=csv, relative to the root.")
    on_bad_image: Literal["fail", "skip"] = Field(
        description="What `prepare` does with files that cannot be decoded."
    )
    workers: int = Field(
        ge=0, le=256, description="Threads that decode images which are not packed."
    )
