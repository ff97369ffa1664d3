"""Options of the methods. Free of torch, so that commands which only read them start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from semimae.engine.config import StepsOrNone
from semimae.types import Frozen

if TYPE_CHECKING:
    from semimae.mim.config import MIMConfig

Section = Literal["pseudo_label", "mim", "ssmae", "start"]

# The sections of params.yaml that each method reads. A cell's identity leaves the others out, so
# that a method without a mask ratio is not trained once per mask ratio.
METHOD_SECTIONS: dict[str, frozenset[Section]] = {
    "supervised": frozenset(),
    "fixmatch": frozenset({"pseudo_label"}),
    "mean_teacher": frozenset({"pseudo_label"}),
    "flexmatch": frozenset({"pseudo_label"}),
    "freematch": frozenset({"pseudo_label"}),
    "softmatch": frozenset({"pseudo_label"}),
    "mae": frozenset({"mim"}),
    "mae_finetune": frozenset({"mim", "start"}),
    "semi_vit": frozenset({"mim", "pseudo_label", "start"}),
    "ssmae": frozenset({"mim", "pseudo_label", "ssmae"}),
    "semi_mae": frozenset({"mim", "pseudo_label"}),
}

# Methods that train in phases, each from the weights of the one before; all others are one phase.
METHOD_PHASES: dict[str, tuple[str, ...]] = {
    "mae_finetune": ("mae", "supervised"),
    "semi_vit": ("mae", "supervised", "semi_vit"),
}

# Methods that reconstruct in a phase of its own: there the weight of the loss means nothing.
RECONSTRUCTION_ALONE = frozenset({"mae", "mae_finetune", "semi_vit"})


class PseudoLabelConfig(Frozen):
    """How a teacher's predictions on weak views supervise the strong views."""

    threshold: float = Field(ge=0, le=1, description="Smallest probability of a pseudo label.")
    threshold_start: float = Field(ge=0, le=1, description="Threshold at the first step.")
    threshold_ramp: float = Field(
        ge=0, le=1, description="Share of the run in which it moves from threshold_start; 0: none."
    )
    rule: Literal["fixed", "flex", "free", "soft"] = Field(
        description="Which labels count, for semi_mae and semi_vit; other methods have their own."
    )
    alignment: Literal["none", "uniform", "labeled"] = Field(
        description="Distribution that predictions are aligned to on average "
        "(arXiv:1911.09785); not of mean_teacher and ssmae."
    )
    momentum: float = Field(
        ge=0, lt=1, description="Of running means: alignment, adaptive thresholds."
    )
    mixup: bool = Field(
        description="Probabilistic pseudo mixup of strong views (arXiv:2208.05688); not of "
        "mean_teacher and ssmae."
    )
    lambda_u: float = Field(ge=0, le=1000, description="Weight of the consistency loss.")
    lambda_mse: float = Field(
        ge=0, le=1000, description="The same for mean_teacher's squared error."
    )
    lambda_fair: float = Field(ge=0, le=1000, description="Weight of freematch's fairness loss.")
    lambda_ramp: float = Field(
        ge=0, le=1, description="Share of the run in which the consistency loss is faded in."
    )
    teacher: Literal["ema", "student"] = Field(
        description="Who labels: the moving average of the weights, or the model itself; always "
        "the average for mean_teacher and ssmae."
    )
    skip_rejected: Literal["never", "cpu", "always"] = Field(
        description="Where strong views with weight 0 are left out of the forward pass (exact). "
        "always: on a GPU too, padded to eighths of the batch; the host waits once per step."
    )


class SSMAEConfig(Frozen):
    """The gate of method ssmae (arXiv:2601.20072)."""

    gate_accuracy: float = Field(
        ge=0, le=1, description="Validation accuracy of confident predictions that opens the gate."
    )
    gate_start: float = Field(ge=0, lt=1, description="Share of the run before which it is shut.")
    memory: bool = Field(description="Keep a pseudo label for the rest of the run once accepted.")


class StartConfig(Frozen):
    """The phases before the last one, of methods that have several; the last has train.steps."""

    mae_steps: StepsOrNone = Field(description="Steps of masked-autoencoder pretraining; 0: none.")
    supervised_steps: StepsOrNone = Field(description="Steps of supervised training; 0: none.")


class MethodOptions(NamedTuple):
    """The sections that a method may read; those that it does not are ``None``."""

    pseudo_label: PseudoLabelConfig | None
    mim: MIMConfig | None
    ssmae: SSMAEConfig | None
