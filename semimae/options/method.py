"""Options of the methods: each class states which keys of params.yaml its method reads.

Field names are sections of params.yaml. A cell holds only these fields, so a key that a method does
not read cannot change a cell of that method. Each class also gives the code that implements it.
That file is imported only when the method is built.
"""

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import Field

from semimae.options.labeled import LabeledConfig
from semimae.options.mim import Masked
from semimae.options.phase import OwnSettings, changed
from semimae.options.self_training import SelfTrainingConfig
from semimae.options.train import Rhythm, StepsOrNone, ValidationRhythm
from semimae.types import Frozen

Sections = Mapping[str, Frozen]  # sections of params.yaml, by name


def values_of(section: Frozen) -> SimpleNamespace:
    """Return a section's values for another class, which picks the keys that it knows.

    Pydantic would accept an instance of a subclass unchanged, with all of its keys.
    """
    return SimpleNamespace(**dict(section))


# --- pseudo-label rules


class Threshold(Frozen):
    """A confidence threshold, which may move at the start of a run."""

    threshold: float = Field(ge=0, le=1, description="Lowest probability of a pseudo label.")
    threshold_start: float = Field(ge=0, le=1, description="Threshold at the first step.")
    threshold_ramp: float = Field(
        ge=0,
        le=1,
        description="Fraction of the run over which the threshold moves from threshold_start. "
        "0: no ramp.",
    )


class Ramp(Frozen):
    """How the consistency loss is ramped up."""

    lambda_ramp: float = Field(
        ge=0, le=1, description="Fraction of the run over which the consistency loss is ramped up."
    )


class Consistency(Ramp):
    """The weight of the consistency loss."""

    lambda_u: float = Field(ge=0, le=1000, description="Weight of the consistency loss.")


class Fairness(Frozen):
    """FreeMatch's own term."""

    lambda_fair: float = Field(ge=0, le=1000, description="Weight of freematch's fairness loss.")


class SquaredError(Frozen):
    """Mean Teacher's consistency loss."""

    lambda_mse: float = Field(
        ge=0, le=1000, description="Weight of mean_teacher's squared error, its consistency loss."
    )


class PseudoLabelOptions(Consistency):
    """How a teacher's predictions on weak views supervise the strong views, for any rule."""

    implementation: ClassVar[str]  # "module:class" of the rule

    alignment: Literal["none", "uniform", "labeled"] = Field(
        description="Distribution that predictions are aligned to on average "
        "(arXiv:1911.09785). mean_teacher and ssmae do not align."
    )
    momentum: float = Field(
        ge=0, lt=1, description="Momentum of running means: alignment and adaptive thresholds."
    )
    mixup: bool = Field(
        description="Probabilistic pseudo mixup of strong views (arXiv:2208.05688). semi_vit "
        "always uses it; mean_teacher and ssmae never do."
    )
    teacher: Literal["ema", "student"] = Field(
        description="Source of the pseudo labels: the moving average of the weights, or the model "
        "itself. mean_teacher, semi_vit and ssmae always use the average."
    )
    skip_rejected: Literal["never", "cpu", "always"] = Field(
        description="Devices on which strong views of weight 0 skip the forward pass, which does "
        "not change the result. always: GPUs as well, padded to eighths of the batch, with one "
        "host synchronization per step. Has no effect with BatchNorm, whose statistics need all "
        "views."
    )


class FixedLabels(PseudoLabelOptions, Threshold):
    """One threshold for all classes."""

    implementation = "semimae.methods.rules:FixedRule"
    rule: Literal["fixed"]


class FlexLabels(PseudoLabelOptions, Threshold):
    """FlexMatch's thresholds, which follow the learning status of each class."""

    implementation = "semimae.methods.flexmatch:FlexRule"
    rule: Literal["flex"]


class FreeLabels(PseudoLabelOptions, Fairness):
    """FreeMatch's thresholds, which follow the running confidence."""

    implementation = "semimae.methods.freematch:FreeRule"
    rule: Literal["free"]


class SoftLabels(PseudoLabelOptions):
    """SoftMatch's weights instead of a threshold."""

    implementation = "semimae.methods.softmatch:SoftRule"
    rule: Literal["soft"]


AnyLabels = Annotated[
    FixedLabels | FlexLabels | FreeLabels | SoftLabels, Field(discriminator="rule")
]


# --- sections of params.yaml


class PseudoLabelConfig(PseudoLabelOptions, Threshold, Fairness, SquaredError):
    """How pseudo labels are made and used. Each method reads some of these keys."""

    rule: Literal["fixed", "flex", "free", "soft"] = Field(
        description="Rule that selects pseudo labels, for semi_mae and semi_vit. Other methods "
        "have their own."
    )


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


def _is_empty(own: OwnSettings) -> bool:
    return not own


class Pretraining(Frozen):
    """A first phase of masked pretraining."""

    mae_steps: StepsOrNone = Field(description="Steps of masked-autoencoder pretraining. 0: none.")
    # Not stated where there is nothing to state: such a cell is the same as without this field.
    mae: OwnSettings = Field(default={}, exclude_if=_is_empty)

    def __hash__(self) -> int:
        """Hash the content: dictionaries have no hash of their own."""
        return hash(self.model_dump_json())


class Starts(Pretraining):
    """Masked pretraining, then supervised training."""

    supervised_steps: StepsOrNone = Field(description="Steps of supervised training. 0: none.")
    supervised: OwnSettings = Field(default={}, exclude_if=_is_empty)


class StartConfig(Starts):
    """Phases before the last one, for methods with several. The last one has train.steps."""

    mae: OwnSettings = Field(
        description="What this phase has of its own: {SECTION: {FIELD: VALUE}}, such as {optim: "
        "{lr: 1e-3, layer_decay: 1.0}}. Sections: data (weak view), optim, train (batch_size, mu, "
        "accumulate, ema_decay, ema_warmup). A field that is left out is the run's own."
    )
    supervised: OwnSettings = Field(
        description="The same for the supervised phase of semi_vit. Sections: data (weak and "
        "strong view), labeled, optim, train (batch_size, drop_path, accumulate, ema_decay, "
        "ema_warmup)."
    )


# --- methods


class Phase(NamedTuple):
    """A part of a run with a method of its own."""

    options: "MethodOptions"
    steps: int | None = None  # None: train.steps
    name: str = ""  # the key of its settings in the section ``start``
    own: OwnSettings = {}  # noqa: RUF012  # of the sections data, optim and train


class MethodOptions(Frozen):
    """The keys of params.yaml that a method reads, and the code that reads them."""

    implementation: ClassVar[str]  # "module:class"
    uses_unlabeled: ClassVar[bool] = True
    learns_classes: ClassVar[bool] = True  # whether its last phase trains the classifier
    # Whether it reconstructs in a separate phase, where the weight of the loss has no effect.
    reconstructs_alone: ClassVar[bool] = False
    # Values that the method sets itself.
    settled: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})

    name: str

    @classmethod
    def from_sections(cls, sections: Sections) -> Self:
        """Take the keys that this method reads from sections of params.yaml.

        Args:
            sections: The sections by name. ``mim`` is a ``Masked``.
        """
        own = dict(sections)
        mim = own["mim"]
        assert isinstance(mim, Masked)
        branch = mim.branch.without_unread(alone=cls.reconstructs_alone)
        own["mim"] = mim.model_copy(update={"branch": branch})
        for section, values in cls.settled.items():
            own[section] = own[section].model_copy(update=dict(values))
        (name,) = get_args(cls.model_fields["name"].annotation)
        values = {section: values_of(found) for section, found in own.items()}
        return cls.model_validate(SimpleNamespace(name=name, **values), from_attributes=True)

    def code(self) -> list[str]:
        """Return the "module:class" of the method and of its pseudo-label rule."""
        labels = getattr(self, "pseudo_label", None)
        rule = [labels.implementation] if isinstance(labels, PseudoLabelOptions) else []
        return [self.implementation, *rule]

    def rhythm(self, rhythm: Rhythm) -> Rhythm:
        """Return the rhythm of a run of this method."""
        return rhythm

    @property
    def tunings(self) -> set[str]:
        """Ways to tune a backbone that it uses, beside the run's own."""
        return set()

    def phases(self) -> list[Phase]:
        """Return the phases in their order."""
        return [Phase(self)]


class LabeledOptions(MethodOptions):
    """Methods that learn from labeled images."""

    labeled: LabeledConfig


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


def _by_name() -> dict[str, type[MethodOptions]]:
    members = get_args(get_args(AnyMethod)[0])
    return {get_args(cls.model_fields["name"].annotation)[0]: cls for cls in members}


METHODS: Mapping[str, type[MethodOptions]] = _by_name()
