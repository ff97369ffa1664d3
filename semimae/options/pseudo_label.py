"""Options of pseudo labels: the section ``pseudo_label``, and what each rule reads of it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from semimae.types import Frozen


class Threshold(Frozen):
    """A confidence threshold, which may move at the start of a run."""

    threshold: float = Field(ge=0, le=1, description="Lowest probability of a pseudo label.")
    threshold_start: float = Field(ge=0, le=1, description="Threshold at the first step.")
    threshold_ramp: float = Field(
        ge=0,
        le=1,
        description="Fraction of the run over which the threshold moves from threshold_start. "
        "0: no ramp.",
    )


class Ramp(Frozen):
    """How the consistency loss is ramped up."""

    lambda_ramp: float = Field(
        ge=0, le=1, description="Fraction of the run over which the consistency loss is ramped up."
    )


class Consistency(Ramp):
    """The weight of the consistency loss."""

    lambda_u: float = Field(ge=0, le=1000, description="Weight of the consistency loss.")


class Fairness(Frozen):
    """FreeMatch's own term."""

    lambda_fair: float = Field(ge=0, le=1000, description="Weight of freematch's fairness loss.")


class SquaredError(Frozen):
    """Mean Teacher's consistency loss."""

    lambda_mse: float = Field(
        ge=0, le=1000, description="Weight of mean_teacher's squared error, its consistency loss."
    )


class PseudoLabelOptions(Consistency):
    """How a teacher's predictions on weak views supervise the strong views, for any rule."""

    implementation: ClassVar[str]  # "module:class" of the rule

    alignment: Literal["none", "uniform", "labeled"] = Field(
        description="Distribution that predictions are aligned to on average "
        "(arXiv:1911.09785). mean_teacher and ssmae do not align."
    )
    momentum: float = Field(
        ge=0, lt=1, description="Momentum of running means: alignment and adaptive thresholds."
    )
    mixup: bool = Field(
        description="Probabilistic pseudo mixup of strong views (arXiv:2208.05688). semi_vit "
        "always uses it; mean_teacher and ssmae never do."
    )
    teacher: Literal["ema", "student"] = Field(
        description="Source of the pseudo labels: the moving average of the weights, or the model "
        "itself. mean_teacher, semi_vit and ssmae always use the average."
    )
    skip_rejected: Literal["never", "cpu", "always"] = Field(
        description="Devices on which strong views of weight 0 skip the forward pass, which does "
        "not change the result. always: GPUs as well, padded to eighths of the batch, with one "
        "host synchronization per step. Has no effect with BatchNorm, whose statistics need all "
        "views."
    )


class FixedLabels(PseudoLabelOptions, Threshold):
    """One threshold for all classes."""

    implementation = "semimae.methods.rules:FixedRule"
    rule: Literal["fixed"]


class FlexLabels(PseudoLabelOptions, Threshold):
    """FlexMatch's thresholds, which follow the learning status of each class."""

    implementation = "semimae.methods.flexmatch:FlexRule"
    rule: Literal["flex"]


class FreeLabels(PseudoLabelOptions, Fairness):
    """FreeMatch's thresholds, which follow the running confidence."""

    implementation = "semimae.methods.freematch:FreeRule"
    rule: Literal["free"]


class SoftLabels(PseudoLabelOptions):
    """SoftMatch's weights instead of a threshold."""

    implementation = "semimae.methods.softmatch:SoftRule"
    rule: Literal["soft"]


AnyLabels = Annotated[
    FixedLabels | FlexLabels | FreeLabels | SoftLabels, Field(discriminator="rule")
]


class PseudoLabelConfig(PseudoLabelOptions, Threshold, Fairness, SquaredError):
    """How pseudo labels are made and used. Each method reads some of these keys."""

    rule: Literal["fixed", "flex", "free", "soft"] = Field(
        description="Rule that selects pseudo labels, for semi_mae and semi_vit. Other methods "
        "have their own."
    )
