"""Options of self-training: who labels the unlabeled images."""

from typing import Annotated, Any, Literal

from pydantic import Field

from semimae.options.backbone import Tuning, Weights
from semimae.options.train import Steps
from semimae.types import Frozen


class TeacherConfig(Frozen):
    """What a teacher has of its own; all else, and what is null or left out, is the run's."""

    tuning: Tuning | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    weights: Weights = None
    model: str | None = Field(default=None, min_length=1)

    @property
    def of_backbone(self) -> dict[str, Any]:
        """What it changes in the section ``backbone``."""
        own = self.model_dump(exclude={"seed"})
        return {name: value for name, value in own.items() if value is not None}


class SelfTrainingConfig(Frozen):
    """Teachers learn from the labels, label all unlabeled images once, and a student learns."""

    teachers: Annotated[
        tuple[TeacherConfig, ...], Field(strict=False, min_length=1, max_length=64)
    ] = Field(
        description="One entry per teacher, with the keys that differ from the run: tuning, seed, "
        "weights, model (of timm). {}: the same as the run."
    )
    teacher_steps: Steps = Field(
        description="Training steps of each teacher, on labeled images only."
    )
    ensemble: Literal["votes", "probabilities"] = Field(
        description="votes: the labels of all teachers have equal weight (arXiv:2503.09707); "
        "probabilities: the class with the highest mean probability."
    )
    threshold: float = Field(
        ge=0, le=1, description="Minimum mean probability of a pseudo label. 0: use all of them."
    )
