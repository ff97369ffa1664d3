"""How labeled images are regularized."""

from typing import Literal

from pydantic import Field

from semimae.types import Frozen


class LabeledConfig(Frozen):
    """The supervised term: views of the labeled images, how they are mixed, and their targets."""

    view: Literal["weak", "strong"] = Field(
        description="weak: crop and flip. strong: also RandAugment, cutout and erasing, as in the "
        "strong views of unlabeled images."
    )
    view_probability: float = Field(
        ge=0, le=1, description="Probability of a strong view, for view: strong."
    )
    mixup: float = Field(
        ge=0,
        le=100,
        description="Alpha of mixup (arXiv:1710.09412): the weight of an image is drawn from "
        "Beta(alpha, alpha). 0: no mixup.",
    )
    cutmix: float = Field(
        ge=0, le=100, description="Alpha of CutMix (arXiv:1905.04899), as for mixup. 0: no CutMix."
    )
    mix_probability: float = Field(
        ge=0, le=1, description="Probability of mixing an image, by mixup or CutMix."
    )
    switch_probability: float = Field(
        ge=0, le=1, description="Probability of CutMix instead of mixup if both are enabled."
    )
    smoothing: float = Field(
        ge=0,
        lt=1,
        description="Label smoothing: the fraction of the target that is spread evenly over all "
        "classes (arXiv:1512.00567).",
    )

    @property
    def mixes(self) -> bool:
        """Whether images can be mixed."""
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)
