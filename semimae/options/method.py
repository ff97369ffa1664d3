"""Options of the methods: each class states which keys of params.yaml its method reads.

Field names are sections of params.yaml. A cell holds only these fields, so a key that a method does
not read cannot change a cell of that method. Each class also gives the code that implements it.
That file is imported only when the method is built.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self, get_args

from pydantic import Field

from semimae.options.method_base import LabeledOptions, MethodOptions, Phase, Sections
from semimae.options.mim import Masked
from semimae.options.phase import changed
from semimae.options.pseudo_label import (
    AnyLabels,
    Consistency,
    FixedLabels,
    FlexLabels,
    FreeLabels,
    Ramp,
    SoftLabels,
    SquaredError,
    Threshold,
)
from semimae.options.self_training import SelfTrainingConfig
from semimae.options.start import Pretraining, Starts
from semimae.options.train import Rhythm, ValidationRhythm
from semimae.types import Frozen


class SupervisedOptions(LabeledOptions):
    """Labeled images only."""

    implementation = "semimae.methods.supervised:Supervised"
    uses_unlabeled = False
    name: Literal["supervised"]


class FixMatchOptions(LabeledOptions):
    """A fixed threshold."""

    implementation = "semimae.methods.fixmatch:FixMatch"
    settled = MappingProxyType({"pseudo_label": {"rule": "fixed"}})
    name: Literal["fixmatch"]
    pseudo_label: FixedLabels


class MeanTeacherLabels(SquaredError, Ramp):
    """The keys of the section ``pseudo_label`` that Mean Teacher reads."""


class MeanTeacherOptions(LabeledOptions):
    """Squared error between the student and its moving average."""

    implementation = "semimae.methods.mean_teacher:MeanTeacher"
    name: Literal["mean_teacher"]
    pseudo_label: MeanTeacherLabels


class FlexMatchOptions(LabeledOptions):
    """Thresholds that follow the learning status of each class."""

    implementation = "semimae.methods.flexmatch:FlexMatch"
    settled = MappingProxyType({"pseudo_label": {"rule": "flex"}})
    name: Literal["flexmatch"]
    pseudo_label: FlexLabels


class FreeMatchOptions(LabeledOptions):
    """Thresholds that follow the running confidence."""

    implementation = "semimae.methods.freematch:FreeMatch"
    settled = MappingProxyType({"pseudo_label": {"rule": "free"}})
    name: Literal["freematch"]
    pseudo_label: FreeLabels


class SoftMatchOptions(LabeledOptions):
    """Weights instead of a threshold.

    The paper aligns predictions to the uniform distribution, so ``alignment: none`` means
    ``uniform`` here.
    """

    implementation = "semimae.methods.softmatch:SoftMatch"
    settled = MappingProxyType({"pseudo_label": {"rule": "soft"}})
    name: Literal["softmatch"]
    pseudo_label: SoftLabels

    @classmethod
    def from_sections(cls, sections: Sections) -> Self:
        """Take the keys that this method reads, and always align."""
        labels = sections["pseudo_label"]
        if getattr(labels, "alignment", None) == "none":
            labels = labels.model_copy(update={"alignment": "uniform"})
        return super().from_sections({**sections, "pseudo_label": labels})


class MAEOptions(MethodOptions):
    """Masked image modeling only."""

    implementation = "semimae.methods.mae:MaskedPretraining"
    learns_classes = False
    name: Literal["mae"]
    reconstructs_alone = True
    mim: Masked


class StartOptions(LabeledOptions):
    """Methods in phases that begin with masked pretraining."""

    reconstructs_alone = True
    mim: Masked | None  # None in the last phase, like ``start``
    start: Pretraining | None

    def pretraining(self) -> list[Phase]:
        """Return the phase of masked pretraining, if there is one."""
        start = self.start
        if self.mim is None or start is None or not start.mae_steps:
            return []
        return [Phase(MAEOptions(name="mae", mim=self.mim), start.mae_steps, "mae", start.mae)]


class MAEFinetuneOptions(StartOptions):
    """Masked pretraining, then supervised training."""

    implementation = SupervisedOptions.implementation
    name: Literal["mae_finetune"]

    def phases(self) -> list[Phase]:
        """Return pretraining and fine-tuning."""
        supervised = SupervisedOptions(name="supervised", labeled=self.labeled)
        return [*self.pretraining(), Phase(supervised)]


class SemiViTOptions(StartOptions):
    """Masked pretraining, supervised training, then pseudo labels."""

    implementation = "semimae.methods.semi_vit:SemiViT"
    settled = MappingProxyType({"pseudo_label": {"teacher": "ema", "mixup": True}})
    name: Literal["semi_vit"]
    pseudo_label: AnyLabels
    start: Starts | None

    def phases(self) -> list[Phase]:
        """Return pretraining, fine-tuning and self-training."""
        made, start = self.pretraining(), self.start
        if start is not None and start.supervised_steps:
            labeled = changed(self.labeled, start.supervised.get("labeled", {}))
            supervised = SupervisedOptions(name="supervised", labeled=labeled)
            made.append(Phase(supervised, start.supervised_steps, "supervised", start.supervised))
        return [*made, Phase(self.model_copy(update={"mim": None, "start": None}))]


class SSMAEConfig(Frozen):
    """The gate of method ssmae (arXiv:2601.20072)."""

    gate_accuracy: float = Field(
        ge=0,
        le=1,
        description="The gate opens when confident predictions reach this accuracy on the "
        "validation split.",
    )
    gate_start: float = Field(
        ge=0, lt=1, description="Fraction of the run before which the gate stays closed."
    )
    memory: bool = Field(description="Keep an accepted pseudo label for the rest of the run.")


class SSMAELabels(Consistency, Threshold):
    """The keys of the section ``pseudo_label`` that SSMAE reads."""


class SSMAEOptions(LabeledOptions):
    """Two agreeing views, behind a gate. Validation opens it, so its rhythm affects the weights."""

    implementation = "semimae.methods.ssmae:SSMAE"
    name: Literal["ssmae"]
    pseudo_label: SSMAELabels
    mim: Masked
    ssmae: SSMAEConfig
    train: ValidationRhythm

    def rhythm(self, rhythm: Rhythm) -> Rhythm:
        """Return the rhythm with this run's own validation interval."""
        return rhythm.model_copy(update={"eval_every": self.train.eval_every})


class SemiMAEOptions(LabeledOptions):
    """Pseudo labels and, in parallel, the reconstruction of masked weak views."""

    implementation = "semimae.methods.semi_mae:SemiMAE"
    name: Literal["semi_mae"]
    pseudo_label: AnyLabels
    mim: Masked


class SelfTrainingLabels(Consistency):
    """What self-training reads of the section ``pseudo_label``."""


class SelfTrainingOptions(LabeledOptions):
    """Teachers label all unlabeled images once; a student learns these labels."""

    implementation = "semimae.methods.self_training:SelfTraining"
    name: Literal["self_training"]
    pseudo_label: SelfTrainingLabels
    self_training: SelfTrainingConfig
    teachers_sha256: tuple[str | None, ...] = ()  # of the files of their own starting weights

    def code(self) -> list[str]:
        """Return the "module:class" of the method and of its teachers'."""
        return [*super().code(), SupervisedOptions.implementation]

    @property
    def tunings(self) -> set[str]:
        """Those of the teachers."""
        return {teacher.tuning for teacher in self.self_training.teachers if teacher.tuning}


# The registry: a new method is a file in semimae/methods, a class here and a member of this union.
AnyMethod = Annotated[
    SupervisedOptions
    | FixMatchOptions
    | MeanTeacherOptions
    | FlexMatchOptions
    | FreeMatchOptions
    | SoftMatchOptions
    | MAEOptions
    | MAEFinetuneOptions
    | SemiViTOptions
    | SSMAEOptions
    | SelfTrainingOptions
    | SemiMAEOptions,
    Field(discriminator="name"),
]

METHODS: Mapping[str, type[MethodOptions]] = {
    get_args(cls.model_fields["name"].annotation)[0]: cls
    for cls in get_args(get_args(AnyMethod)[0])
}
