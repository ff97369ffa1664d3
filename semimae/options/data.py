"""Options of the data: which images are read, and how their views are created."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.types import Frozen, PathText

Side = Annotated[int, Field(ge=4, le=4096)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Level = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(ge=1e-6, le=1)]
Decode = Literal["auto", "threads", "processes"]
PerChannel = Field(strict=False, min_length=1, max_length=3)
# The fields that `prepare` reads.
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
    """Which images a run sees, and how."""

    image_size: Side = Field(description="Height and width of the model's input in pixels.")
    channels: Literal[1, 3] = Field(description="1: grayscale, 3: RGB. Images are converted.")
    white_level: int | None = Field(
        ge=1,
        le=65535,
        description="Value that becomes white in grayscale images of more than 8 bits, such as "
        "4095 if 12 of 16 bits are used. null: 65535.",
    )
    pack_max_side: int = Field(
        ge=0,
        le=4096,
        description="If no image has a side longer than this many pixels, all images are packed "
        "into one array.",
    )
    cache_size: Side | None = Field(
        description="`prepare` saves decoded copies of images that are not packed, scaled to this "
        "shorter side in pixels; reading them avoids decoding. null: no copies."
    )
    mean: Annotated[tuple[Level, ...], PerChannel] | None = Field(
        description="Mean per channel. null: measured by `prepare`."
    )
    std: Annotated[tuple[Spread, ...], PerChannel] | None = Field(
        description="Standard deviation per channel. null: measured by `prepare`."
    )
    test_fraction: Fraction = Field(
        gt=0,
        description="Fraction of the labeled images held out for testing if the dataset has no "
        "test set.",
    )
    val_fraction: Fraction = Field(
        gt=0, description="Fraction of the labeled training images held out for validation."
    )
    folds: int = Field(
        ge=0,
        le=50,
        description="Folds of cross-validation over the labeled images, for few labels. Each fold "
        "is held out in turn instead of val_fraction. Needs refit. 0: a single validation split.",
    )
    include_labeled: bool = Field(
        description="Whether to use labeled images as unlabeled ones too."
    )
    labeled_list: PathText | None = Field(
        description="File that lists the labeled images, one name per line. null: no list."
    )
    crop: Literal["pad", "resized"] = Field(
        description="pad: shift by up to crop_padding pixels. resized: random resized crop."
    )
    crop_padding: int = Field(ge=0, le=64, description="Padding in pixels, for crop: pad.")
    crop_min_scale: float = Field(
        gt=0, le=1, description="Smallest fraction of the area, for crop: resized."
    )
    hflip: bool = Field(description="Flip views horizontally with probability 0.5.")
    color_jitter: float = Field(
        ge=0,
        le=1,
        description="Largest relative change of brightness, contrast and saturation in weak views, "
        "which have no RandAugment. 0: none.",
    )
    randaugment_ops: int = Field(ge=0, le=8, description="RandAugment operations per strong view.")
    randaugment_magnitude: int = Field(
        ge=0,
        le=30,
        description="Magnitude of each operation, 0 to 30. timm's scale ends at 10: its m9 is 27 "
        "here.",
    )
    randaugment_magnitude_std: Annotated[float, Field(ge=0, le=30)] | Literal["uniform"] = Field(
        description="Standard deviation of the magnitude, drawn per operation and image. timm's "
        "mstd0.5 is 1.5 here. 0: constant. uniform: uniformly from 0 to randaugment_magnitude, as "
        "in FixMatch."
    )
    randaugment_probability: float = Field(
        ge=0, le=1, description="Probability of applying each operation. timm uses 0.5."
    )
    cutout: float = Field(
        ge=0,
        le=1,
        description="Largest side of the square that is erased in each strong view, as a fraction "
        "of the image's side.",
    )
    erasing: float = Field(
        ge=0,
        le=1,
        description="Probability of erasing a rectangle of a strong view (arXiv:1708.04896).",
    )
    erasing_fill: Literal["mean", "noise"] = Field(
        description="Content of an erased rectangle: the mean color, or normal noise per pixel."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.folds == 1:
            raise ValueError(
                "folds=1 holds out all labels at once; allowed: 2 to 50, or 0 for a single "
                "validation split"
            )
        if self.crop == "pad" and self.crop_padding >= self.image_size:
            raise ValueError(
                f"crop_padding={self.crop_padding} must be less than "
                f"image_size={self.image_size}: padding mirrors the image"
            )
        if self.cache_size is not None and self.cache_size < self.image_size:
            raise ValueError(
                f"cache_size={self.cache_size} is smaller than image_size={self.image_size}; "
                "allowed: image_size or more, or null"
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
    """The images: where they are, how they are read, and how their views are created."""

    root: PathText | None = Field(
        description="Folder of the images. null: $SEMIMAE_DATA, or data/ next to dvc.yaml."
    )
    manifest: PathText = Field(description="The table of dataset: csv, relative to the root.")
    on_bad_image: Literal["fail", "skip"] = Field(
        description="What `prepare` does with files that cannot be decoded."
    )
    workers: int = Field(
        ge=0,
        le=256,
        description="Threads or processes that decode images, if they are not packed. 0: one per "
        "core, but at most 16 processes.",
    )
    decode: Decode = Field(
        description="Where image files are decoded during training and evaluation. Processes do "
        "not share Python's lock, which limits threads to about 2.6 times the speed of one. auto: "
        "processes on CUDA if there are at least 4 workers, else threads."
    )
