"""What the options of all methods have in common."""

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple, Self, get_args

from semimae.options.labeled import LabeledConfig
from semimae.options.mim import Masked
from semimae.options.phase import OwnSettings
from semimae.options.pseudo_label import PseudoLabelOptions
from semimae.options.train import Rhythm
from semimae.types import Frozen

Sections = Mapping[str, Frozen]  # sections of params.yaml, by name


def values_of(section: Frozen) -> SimpleNamespace:
    """Return a section's values for another class, which picks the keys that it knows.

    Pydantic would accept an instance of a subclass unchanged, with all of its keys.
    """
    return SimpleNamespace(**dict(section))


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
