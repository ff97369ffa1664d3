"""A cell: the complete description of one training run. Equal cells are the same run."""

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from semimae.options.backbone import (
    BackboneConfig,
    CNNConfig,
    check_joint_pass,
    no_patches,
    weights_hash,
)
from semimae.options.data import CellData
from semimae.options.labeled import LabeledConfig
from semimae.options.method import AnyMethod, SelfTrainingOptions, SupervisedOptions
from semimae.options.method_base import Phase
from semimae.options.mim import Masked
from semimae.options.phase import changed
from semimae.options.train import CellTrain, OptimConfig
from semimae.types import Frozen, UserError

Dataset = Literal["digits", "cifar10", "cifar100", "stl10", "imagefolder", "csv"]


class Cell(Frozen):
    """Everything that affects the trained weights, and nothing else.

    It is stored in ``runs/<name>/config.json``.
    """

    dataset: Dataset
    options: AnyMethod  # the method, and its options
    label_fraction: float | None = Field(gt=0, le=1)
    num_labels: int | None = Field(ge=1)
    seed: int = Field(ge=0, lt=2**31)
    refit: bool  # whether the last training is on all labels, after those that hold some out
    data: CellData
    backbone: BackboneConfig
    optim: OptimConfig
    train: CellTrain
    weights_sha256: str | None = None  # hash of the file backbone.weights

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        ways = {
            "label_fraction": self.label_fraction,
            "num_labels": self.num_labels,
            "data.labeled_list": self.data.labeled_list,
        }
        given = [f"{name}={value}" for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} says which images are labeled; set exactly "
                "one of label_fraction, num_labels, data.labeled_list, and the others to null"
            )
        if self.data.folds and not self.refit:
            raise ValueError(
                f"data.folds={self.data.folds} needs refit: true: the models of the folds judge "
                "the setting, and the one to use is then trained on all labels"
            )
        if self.refit and self.method == "ssmae":
            raise ValueError(
                "method=ssmae opens its gate by its accuracy on validation images, which a "
                "training on all labels does not have; set refit: false and data.folds: 0"
            )
        self.optim.check_warmup(self.train.steps, "train.steps")
        for phase in self.options.phases():
            if phase.steps is not None:
                of_it = self.of_phase(phase).optim
                own = f"start.{phase.name}." if "warmup_steps" in phase.own.get("optim", {}) else ""
                of_it.check_warmup(phase.steps, f"start.{phase.name}_steps", own)
        for teacher in self.teachers():
            self.optim.check_warmup(teacher.train.steps, "self_training.teacher_steps")
        if isinstance(self.backbone, CNNConfig):  # timm's models are checked when they are built
            if self.mim is not None:
                raise no_patches("backbone.name=cnn")
            check_joint_pass("backbone.name=cnn", self.train)
        self._check_graph()
        side = self.backbone.patches_per_side(self.data.image_size)
        if self.mim is not None and side is not None:
            self.mim.check_patches(side, (self.data.image_size // side) ** 2 * self.data.channels)
        return self

    def _check_graph(self) -> None:
        if not self.train.graph:
            return
        if self.train.processes > 1:
            raise ValueError(
                f"train.graph=true is for one process, not train.processes={self.train.processes}; "
                "set it to false"
            )
        labels = getattr(self.options, "pseudo_label", None)
        if getattr(labels, "skip_rejected", None) == "always":
            raise ValueError(
                "train.graph=true makes the same operations in each step, and "
                "pseudo_label.skip_rejected=always does not; set the latter to never"
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a config.json.

        Raises:
            UserError: If it is missing or cannot be read, or was written by another version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run `dvc repro` to write it.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from None
        except ValidationError as error:
            raise UserError(
                f"{path} was written by another version ({error.error_count()} fields differ); run "
                "`dvc repro`."
            ) from None

    def write(self, path: Path) -> None:
        """Write config.json. Equal cells give equal bytes."""
        path.write_text(self.model_dump_json(indent=2) + "\n")

    def with_weights_hash(self, root: Path) -> Self:
        """Return the cell with a hash of its initial weights, which makes them part of it.

        Args:
            root: The folder in which a relative ``backbone.weights`` is looked up.

        Raises:
            UserError: If the file cannot be read.
        """
        own = weights_hash(self.backbone.weights, root)
        made = self if own is None else self.model_copy(update={"weights_sha256": own})
        if not isinstance(self.options, SelfTrainingOptions):
            return made
        teachers = self.options.self_training.teachers
        hashes = tuple(weights_hash(teacher.weights, root) for teacher in teachers)
        options = self.options.model_copy(update={"teachers_sha256": hashes})
        return made.model_copy(update={"options": options})

    @property
    def as_asked(self) -> Self:
        """The cell as params.yaml describes it, without the content of its initial weights."""
        changes: dict[str, object] = {"weights_sha256": None}
        if isinstance(self.options, SelfTrainingOptions):
            changes["options"] = self.options.model_copy(update={"teachers_sha256": ()})
        return self.model_copy(update=changes)

    def of_phase(self, phase: Phase) -> Self:
        """Return the cell of one of its phases: with the settings that the phase has of its own.

        Raises:
            ValueError: If they do not fit together.
        """
        train = changed(self.train, phase.own.get("train", {}))
        if phase.steps is not None:
            train = train.model_copy(update={"steps": phase.steps})
        return self.model_copy(
            update={
                "options": phase.options,
                "train": train,
                "data": changed(self.data, phase.own.get("data", {})),
                "optim": changed(self.optim, phase.own.get("optim", {})),
            }
        )

    @property
    def trainings(self) -> int:
        """How often it is trained: for each part of the labels that is held out, and for all."""
        return 1 + (self.data.folds or 1) if self.refit else 1

    @property
    def once(self) -> Self:
        """One of these trainings."""
        data = self.data.model_copy(update={"folds": 0})
        return self.model_copy(update={"refit": False, "data": data})

    def teachers(self) -> list[Self]:
        """Return the cells of self-training's teachers, which learn from labels only.

        Raises:
            ValueError: If the backbone of one of them is not valid.
        """
        if not isinstance(self.options, SelfTrainingOptions):
            return []
        config = self.options.self_training
        train = self.train.model_copy(update={"steps": config.teacher_steps})
        supervised = SupervisedOptions(name="supervised", labeled=self.options.labeled)
        made = []
        for number, teacher in enumerate(config.teachers):
            hashes = self.options.teachers_sha256
            own_hash = hashes[number] if hashes and teacher.weights else self.weights_sha256
            changes = {
                "options": supervised,
                "train": train,
                "backbone": teacher.changed(self.backbone, f"self_training.teachers.{number}"),
                "seed": self.seed if teacher.seed is None else teacher.seed,
                "weights_sha256": own_hash,
            }
            made.append(self.model_copy(update=changes))
        return made

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.options.name

    @property
    def mim(self) -> Masked | None:
        """The MIM branch, if the method has one."""
        return getattr(self.options, "mim", None)

    @property
    def labeled(self) -> LabeledConfig | None:
        """How labeled images are regularized, if the method learns from them."""
        return getattr(self.options, "labeled", None)

    @property
    def mask_ratio(self) -> float | None:
        """Fraction of the patches that the MIM branch hides, if there is one."""
        return None if self.mim is None else self.mim.mask_ratio

    @property
    def num_unlabeled(self) -> int:
        """Unlabeled images per step, or 0 if the method does not use them."""
        return self.train.batch_size * self.train.mu if self.options.uses_unlabeled else 0

    @property
    def images_per_step(self) -> int:
        """Labeled and unlabeled images per step."""
        return self.train.batch_size + self.num_unlabeled

    @property
    def name(self) -> str:
        """A readable name: method, mask ratio, labels, seed."""
        parts = [self.method]
        if self.mask_ratio is not None:
            parts.append(f"m{self.mask_ratio:g}")
        if self.label_fraction is not None:
            parts.append(f"f{self.label_fraction:g}")
        elif self.num_labels is not None:
            parts.append(f"n{self.num_labels}")
        parts.append(f"s{self.seed}")
        return " ".join([*parts, "refit"] if self.refit and not self.data.folds else parts)


def cell_id(folder: Path) -> str:
    """Return the identity of the run in a folder: a hash of its config.json and split.json."""
    files = (folder / "config.json", folder / "split.json")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
