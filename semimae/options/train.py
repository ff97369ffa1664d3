"""Options of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semimae.types import Frozen

# More than any run needs. Counts that do not fit into 64 bits are rejected here, not by a library.
Steps = Annotated[int, Field(ge=1, le=10**9)]
StepsOrNone = Annotated[int, Field(ge=0, le=10**9)]


class OptimConfig(Frozen):
    """AdamW with linear warm-up and cosine decay."""

    lr: float = Field(gt=0, le=10, description="Peak learning rate.")
    min_lr: float = Field(ge=0, le=10, description="Final learning rate, at most lr.")
    warmup_steps: StepsOrNone = Field(
        description="Steps of linear warm-up from 0, fewer than the steps of the run."
    )
    weight_decay: float = Field(
        ge=0,
        le=10,
        description="Decoupled weight decay. Not applied to biases, norms and tokens.",
    )
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]],
        Field(strict=False, description="AdamW's decay rates."),
    ]
    layer_decay: float = Field(
        gt=0, le=1, description="Learning rate of a layer relative to the layer above it."
    )
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        description="Largest gradient norm. Larger gradients are scaled down. null: no clipping."
    )

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}; lower min_lr")
        return self

    def check_warmup(self, steps: int, key: str, prefix: str = "") -> None:
        """Check that the warm-up ends within the ``steps`` of a run, which option ``key`` sets.

        ``prefix`` stands before the name of this section where it is not at the top level.

        Raises:
            ValueError: If it does not. The message follows the name of the section.
        """
        if self.warmup_steps >= steps:
            raise ValueError(
                f"{prefix}optim.warmup_steps={self.warmup_steps} must be less than {key}={steps}: "
                f"the learning rate would never reach {prefix}optim.lr"
            )


class CellTrain(Frozen):
    """The length of a training run, and how it is computed."""

    steps: Steps = Field(description="Optimizer steps.")
    batch_size: int = Field(ge=1, le=2**20, description="Labeled images per step.")
    mu: int = Field(ge=1, le=1000, description="Unlabeled images per labeled image.")
    drop_path: float = Field(
        ge=0,
        lt=1,
        description="Stochastic depth: probability of dropping a residual branch of the last block "
        "for an image, increasing linearly over the blocks from 0. Applies when the student "
        "classifies.",
    )
    ema_decay: float = Field(ge=0, lt=1, description="Decay of the moving average of the weights.")
    ema_warmup: bool = Field(
        description="Limit the decay to (1 + t) / (10 + t) at step t, to forget the random "
        "initialization. Not in a phase that starts from a trained classifier, whose average is "
        "its teacher."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="auto: cuda if available, else mps, else cpu."
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        description="auto: bf16 on cuda, and on CPUs with bf16 units if the model is at least 192 "
        "wide; else fp32. tf32: fp32 with TF32 matrix products on cuda."
    )
    trim: Annotated[
        tuple[Literal["class_token", "hidden_patches"], ...],
        Field(
            strict=False,
            description="Skip unused tokens in the last block: class_token in the encoder if the "
            "class token is pooled, hidden_patches in the decoder. Does not change the result. "
            "[]: skip nothing.",
        ),
    ]
    recompute: bool = Field(
        description="Recompute activations inside blocks in the backward pass. Saves memory and "
        "does not change the result."
    )
    compile: bool = Field(
        description="Compile the blocks with torch.compile. The first steps are slow, so this only "
        "pays off in long runs."
    )
    graph: bool = Field(
        description="Record the step as a CUDA graph and replay it, so that a GPU need not wait "
        "for the host to start each operation. Equal within rounding. Needs cuda and one process."
    )
    deterministic: bool = Field(
        description="Use only deterministic algorithms on cuda, so that a resumed run ends with "
        "the same bits as an uninterrupted one. Slower. Always the case on a CPU."
    )
    accumulate: int = Field(
        ge=1,
        le=4096,
        description="Micro-batches per step. Saves memory and leaves the step the same.",
    )
    processes: int = Field(
        ge=1,
        le=1024,
        description="Processes that share a step on one machine. For several machines, see "
        "docs/scaling.md.",
    )
    sharding: Literal["none", "zero1"] = Field(
        description="zero1: each process keeps only its share of the optimizer state."
    )
    threads: int = Field(
        ge=0,
        le=1024,
        description="CPU threads. 0: all. Part of the setting, because it changes rounding.",
    )


class ValidationRhythm(Frozen):
    """When the model is evaluated."""

    eval_every: Steps = Field(description="Steps between evaluations on the validation split.")


class Rhythm(ValidationRhythm):
    """How often things happen that do not affect the weights. It may change between attempts."""

    log_every: Steps = Field(description="Steps that each logged value is averaged over.")
    save_every: Steps = Field(description="Steps between checkpoints.")
    gradient_every: StepsOrNone = Field(
        description="Steps between measurements of each loss term's gradient. 0: never."
    )
    max_bad_steps: Steps = Field(
        description="Consecutive steps that may be skipped because their loss or gradient is not "
        "finite. One more ends the run."
    )


class TrainConfig(CellTrain, Rhythm):
    """The length of training runs, how they are computed, and how often they are saved."""
