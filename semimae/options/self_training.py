"""Options of self-training: who labels the unlabeled images."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from semimae.options.backbone import BackboneConfig, Tuning, Weights
from semimae.options.train import Steps
from semimae.types import Frozen


class TeacherConfig(Frozen):
    """What a teacher has of its own; all else, and what is null or left out, is the run's."""

    tuning: Tuning | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    weights: Weights = None
    model: str | None = Field(default=None, min_length=1)

    def changed(self, backbone: BackboneConfig, key: str) -> BackboneConfig:
        """Return the run's backbone with what this teacher changes in it.

        Raises:
            ValueError: If that is not valid. The message begins with ``key``, the teacher's own.
        """
        own = self.model_dump(exclude={"seed"}, exclude_none=True)
        try:
            return type(backbone).model_validate(backbone.model_dump() | own).without_unread()
        except ValidationError as error:
            first = error.errors()[0]
            named = ".".join(map(str, first["loc"])) or "its backbone"
            raise ValueError(
                f"{key}: {named} is not for backbone.name: {backbone.name}, or does not fit it: "
                f"{first['msg']}"
            ) from None


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
