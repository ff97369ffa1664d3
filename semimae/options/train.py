"""Options of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.types import Frozen

# More than any run has; a count that does not fit in 64 bits is refused here and not by a library.
Steps = Annotated[int, Field(ge=1, le=10**9)]
StepsOrNone = Annotated[int, Field(ge=0, le=10**9)]


class OptimConfig(Frozen):
    """AdamW with linear warm-up and a half cosine."""

    lr: float = Field(gt=0, le=10, description="Peak learning rate.")
    min_lr: float = Field(ge=0, le=10, description="Learning rate at the end; at most lr.")
    warmup_steps: StepsOrNone = Field(
        description="Steps of linear warm-up from 0; fewer than the run has."
    )
    weight_decay: float = Field(ge=0, le=10, description="Decoupled; not on biases, norms, tokens.")
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]],
        Field(strict=False, description="AdamW's decay rates."),
    ]
    layer_decay: float = Field(gt=0, le=1, description="Learning-rate factor per layer downwards.")
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        description="Largest gradient norm; larger ones are scaled down. null: none is."
    )

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}; lower it")
        return self

    def check_warmup(self, steps: int, key: str) -> None:
        """Check that the warm-up ends within the ``steps`` that option ``key`` gives a run.

        Raises:
            ValueError: If not; the message goes on behind the section's name.
        """
        if self.warmup_steps >= steps:
            raise ValueError(
                f"optim.warmup_steps={self.warmup_steps} must be less than {key}={steps}: "
                "the learning rate would never reach optim.lr"
            )


class CellTrain(Frozen):
    """The length of a training run, and how it is computed."""

    steps: Steps = Field(description="Optimizer steps.")
    batch_size: int = Field(ge=1, le=2**20, description="Labeled images per step.")
    mu: int = Field(ge=1, le=1000, description="Unlabeled images per labeled one.")
    drop_path: float = Field(
        ge=0,
        lt=1,
        description="Stochastic depth: probability that a residual branch of the last block is "
        "left out for an image, linear over the blocks from 0; where the student classifies.",
    )
    ema_decay: float = Field(ge=0, lt=1, description="Decay of the moving average of the weights.")
    ema_warmup: bool = Field(
        description="Decay of at most (1 + t) / (10 + t) at step t, which forgets a random start. "
        "Never in a phase that starts from a trained classifier, whose average is its teacher."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="auto: cuda if there is one, else mps, else cpu."
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        description="auto: bf16 on cuda, and on a CPU that has units for it where the model is at "
        "least 192 wide; else fp32. tf32: fp32 whose products on cuda are TF32."
    )
    trim: Annotated[
        tuple[Literal["class_token", "hidden_patches"], ...],
        Field(
            strict=False,
            description="Last blocks whose unused tokens are left out, of the encoder where the "
            "class token is pooled and of the decoder; exact. []: none.",
        ),
    ]
    recompute: bool = Field(
        description="Compute activations inside blocks again for the gradient: less memory, exact."
    )
    compile: bool = Field(
        description="torch.compile the blocks; the first steps take long, for long runs only."
    )
    deterministic: bool = Field(
        description="On cuda only algorithms that repeat their bits, so that a resumed run ends "
        "with those of one that was not stopped; slower. On a CPU that holds anyway."
    )
    accumulate: int = Field(
        ge=1, le=4096, description="Micro-batches per step: less memory, the same step."
    )
    processes: int = Field(
        ge=1,
        le=1024,
        description="Processes that share a step, on one machine; for more see docs/scaling.md.",
    )
    sharding: Literal["none", "zero1"] = Field(
        description="zero1: each process keeps its share of the optimizer's state."
    )
    threads: int = Field(
        ge=0, le=1024, description="CPU threads, 0: all. Fixed, because it changes the rounding."
    )


class ValidationRhythm(Frozen):
    """When the model is evaluated."""

    eval_every: Steps = Field(description="Steps between evaluations on the validation split.")


class Rhythm(ValidationRhythm):
    """How often something happens that decides no weight; it may change between two attempts."""

    log_every: Steps = Field(description="Steps that one logged value averages over.")
    save_every: Steps = Field(description="Steps between checkpoints.")
    gradient_every: StepsOrNone = Field(
        description="Steps between measurements of each loss term's gradient; 0: never."
    )
    max_bad_steps: Steps = Field(
        description="Steps in a row that may be skipped because their loss or gradient is not "
        "finite; one more ends the run."
    )


class TrainConfig(CellTrain, Rhythm):
    """The section ``train``."""
