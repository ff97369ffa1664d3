"""How labeled images are regularized where they are learned from."""

from typing import Literal

from pydantic import Field

from semimae.types import Frozen


class LabeledConfig(Frozen):
    """The supervised term: views of the labeled images, how they are mixed, and their targets."""

    view: Literal["weak", "strong"] = Field(
        description="weak: crop and mirror; strong: also RandAugment, cutout and erasing, as the "
        "strong views of unlabeled images."
    )
    view_probability: float = Field(
        ge=0, le=1, description="With which an image's view is strong, for view: strong."
    )
    mixup: float = Field(
        ge=0,
        le=100,
        description="Alpha of mixup (arXiv:1710.09412): the share that an image keeps is drawn "
        "from Beta(alpha, alpha). 0: none.",
    )
    cutmix: float = Field(
        ge=0, le=100, description="Alpha of cutmix (arXiv:1905.04899), as for mixup. 0: none."
    )
    mix_probability: float = Field(
        ge=0, le=1, description="With which an image is mixed, by one of the two."
    )
    switch_probability: float = Field(
        ge=0, le=1, description="With which it is cutmix where both are on."
    )
    smoothing: float = Field(
        ge=0,
        lt=1,
        description="Label smoothing: the share of the target that all classes have in equal "
        "parts (arXiv:1512.00567).",
    )

    @property
    def mixes(self) -> bool:
        """Whether images may be mixed."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)
