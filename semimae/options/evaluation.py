"""Options of the evaluation protocols."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.options.labeled import LabeledConfig
from semimae.options.train import OptimConfig, Steps
from semimae.types import Frozen

Ridge = Annotated[float, Field(gt=0, le=1e6)]


class LinearProbeConfig(Frozen):
    """A linear classifier and nearest neighbors on frozen features of the EMA weights."""

    l2: Annotated[tuple[Ridge, ...], Field(strict=False, min_length=1)] = Field(
        description="L2 penalties to try. The best one on the validation split is used."
    )
    max_iter: Steps = Field(description="L-BFGS iterations per penalty.")
    knn_k: Steps = Field(description="Number of neighbors, at most the number of labeled images.")
    knn_temperature: float = Field(
        ge=1e-3, le=1e3, description="Temperature of the neighbors' votes."
    )
    trained: Annotated[
        tuple[Literal["batch_norm", "attentive"], ...], Field(strict=False, max_length=2)
    ] = Field(
        description="More probes, trained by gradient descent. batch_norm: a linear classifier "
        "behind BatchNorm without scale and shift (arXiv:2111.06377); attentive: a learned query "
        "with attention over the patch tokens (arXiv:2404.08471). []: none."
    )
    trained_steps: Steps = Field(description="Steps of these probes, with a cosine schedule.")
    trained_batch_size: int = Field(ge=2, le=2**20, description="Labeled images per such step.")
    trained_lr: Annotated[
        tuple[Annotated[float, Field(gt=0, le=10)], ...], Field(strict=False, min_length=1)
    ] = Field(
        description="AdamW's learning rates to try. The best one on the validation split is used."
    )

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.trained)) < len(self.trained):
            raise ValueError(f"trained names {self.trained[0]} twice; name each probe once")
        return self


class FineTuneConfig(Frozen):
    """Supervised training of all weights on the labeled images, starting from the EMA weights."""

    steps: Steps = Field(description="Optimizer steps.")
    batch_size: int = Field(ge=1, le=2**20, description="Labeled images per step.")
    ema_decay: float = Field(ge=0, lt=1, description="Decay of the evaluated moving average.")
    reset_head: bool = Field(description="Start with a new classifier instead of the trained one.")
    labeled: LabeledConfig
    drop_path: float = Field(ge=0, lt=1, description="Stochastic depth, like train.drop_path.")
    optim: OptimConfig

    @model_validator(mode="after")
    def _warms_up(self) -> Self:
        self.optim.check_warmup(self.steps, "fine_tune.steps")
        return self
