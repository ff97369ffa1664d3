"""Options of the methods. Free of torch, so that commands which only read them start fast."""

from typing import Literal

from pydantic import Field

from semimae.types import Frozen

Section = Literal["pseudo_label", "mim"]

# The sections of params.yaml that each method reads. A cell's identity leaves the others out, so
# that a method without a mask ratio is not trained once per mask ratio.
METHOD_SECTIONS: dict[str, frozenset[Section]] = {
    "supervised": frozenset(),
    "fixmatch": frozenset({"pseudo_label"}),
    "semi_mae": frozenset({"pseudo_label", "mim"}),
}


class PseudoLabelConfig(Frozen):
    """How a teacher's predictions on weak views supervise the strong views."""

    threshold: float = Field(ge=0, le=1, description="Smallest probability of a pseudo label.")
    lambda_u: float = Field(ge=0, le=1000, description="Weight of the consistency loss.")
    teacher: Literal["ema", "student"] = Field(
        description="Who labels: the moving average of the weights, or the model itself."
    )
    skip_rejected: bool = Field(
        description="Leave strong views below the threshold out of the forward pass (exact; CPU)."
    )
