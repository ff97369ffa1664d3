"""Options of tracking."""

from typing import Self

from pydantic import Field, model_validator

from semimae.types import Frozen


class TrackingConfig(Frozen):
    """What is logged to MLflow, and where."""

    experiment: str = Field(
        min_length=1,
        max_length=250,
        description="Name of the experiment and of the registered model.",
    )
    log_model: bool = Field(description="Whether to log and register the headline's model.")

    @model_validator(mode="after")
    def _has_a_usable_name(self) -> Self:
        name = self.experiment
        if name == "Default":  # it exists in every store, with a file folder of its own
            raise ValueError("experiment=Default is reserved by MLflow; choose another name")
        if not name.isprintable() or name != name.strip() or not any(map(str.isalnum, name)):
            raise ValueError(
                f"experiment={name!r} is not a valid name; it needs a letter or a digit, and must "
                "not contain control characters or begin or end with spaces"
            )
        return self
