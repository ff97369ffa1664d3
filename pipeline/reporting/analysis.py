"""The evidence with its comparisons made: what every part of the report draws on."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from pipeline.reporting.compare import (
    VALIDATION,
    Comparison,
    Setting,
    against,
    by_setting,
    compare,
    differ,
)
from pipeline.reporting.runs import Evidence, Labels
from semimae.options.method import METHODS

_BASELINE = "supervised"


class Verdict(NamedTuple):
    """What to prefer for one label fraction: validation accuracy chooses, the test set judges."""

    best: Setting
    tied: list[Setting]  # what validation cannot tell from it, best first
    over_next: Comparison | None  # the method that validation puts second
    over_baseline: Comparison | None


@dataclass(frozen=True, eq=False)
class Analysis:
    """The evidence with its comparisons made: what every part of the report draws on."""

    evidence: Evidence

    @cached_property
    def grid(self) -> list[Setting]:
        """The settings of equal steps, baselines left out."""
        return by_setting(self.evidence.grid)

    @cached_property
    def baselines(self) -> list[Setting]:
        """What the grid is held against; nothing is chosen among them."""
        return by_setting(self.evidence.baselines)

    @cached_property
    def timed(self) -> list[Setting]:
        """The settings of equal time."""
        return by_setting(self.evidence.timed)

    @cached_property
    def asked(self) -> Setting:
        """The setting of params.yaml."""
        return Setting(*self.evidence.asked)

    @cached_property
    def methods(self) -> list[str]:
        """All methods in the order of params.yaml, which colors follow."""
        params = self.evidence.params
        asked = params.ablation.method if params else []
        return list(dict.fromkeys([*asked, *(run.method for run in self.evidence.runs)]))

    @cached_property
    def between_methods(self) -> list[Comparison]:
        """All pairs of methods, each at its best setting, for each label fraction."""
        return self._compare_methods(self.grid)

    @cached_property
    def between_timed(self) -> list[Comparison]:
        """The same at equal time."""
        return self._compare_methods(self.timed)

    @cached_property
    def within_methods(self) -> list[Comparison]:
        """A method's best setting less its others, for each label fraction."""
        bests = [s for fraction in fractions(self.grid) for s in self.ranked(self.grid, fraction)]
        of_method = [
            (best, other)
            for best in bests
            for other in self.grid
            if other.method == best.method and other.label_fraction == best.label_fraction
        ]
        return compare((best, other) for best, other in of_method if other != best)

    @cached_property
    def verdicts(self) -> dict[Labels, Verdict]:
        """What to prefer for each label fraction."""
        return {fraction: self._verdict(fraction) for fraction in fractions(self.grid)}

    @cached_property
    def main(self) -> Verdict:
        """The verdict to speak of first: of the headline's label fraction, if the grid has it."""
        return self.verdicts.get(self.asked.label_fraction) or next(iter(self.verdicts.values()))

    def help_of_unlabeled(self) -> Comparison | None:
        """Compare the best setting that uses unlabeled images with the best one that does not.

        Validation accuracy chooses both. Baselines count as well.
        """
        fraction = self.main.best.label_fraction
        own = [s for s in (*self.grid, *self.baselines) if s.label_fraction == fraction]
        own.sort(key=lambda s: -s.mean(VALIDATION).mean)
        ranked = [*self.ranked(self.grid, fraction), *own]
        uses = {s: METHODS[s.method].uses_unlabeled for s in ranked if s.method in METHODS}
        of_both = next((s for s in ranked if uses.get(s)), None)
        of_labels = next((s for s in own if not uses.get(s, True)), None)
        if of_both is None or of_labels is None:
            return None
        known = [c for c in against(of_both, self.between_methods) if c.b == of_labels]
        return next(iter(known or compare([(of_both, of_labels)])), None)

    def ranked(self, grid: Sequence[Setting], fraction: Labels) -> list[Setting]:
        """Return each method's best setting for a label fraction, best method first.

        The validation split alone decides, here and between a method's settings, so that the test
        accuracies that are compared afterwards took no part in the choice. Where it cannot tell
        settings apart, the one of params.yaml comes first, which was chosen before any result.
        """
        best: dict[str, Setting] = {}
        for setting in self.by_validation(grid, fraction):
            best.setdefault(setting.method, setting)
        return list(best.values())

    def best(self, grid: Sequence[Setting]) -> list[Setting]:
        """Return each method's best setting by validation for each label fraction, ascending.

        Those of a label fraction are in the order of the methods.
        """
        ranked = (self.ranked(grid, fraction) for fraction in fractions(grid))
        place = self.methods.index
        return [s for found in ranked for s in sorted(found, key=lambda s: place(s.method))]

    def by_validation(self, grid: Sequence[Setting], fraction: Labels) -> list[Setting]:
        """Return the settings with a label fraction, best first; of equals the first in the grid.

        The one that was asked for is before those that validation cannot tell from it.
        """
        settings = [setting for setting in grid if setting.label_fraction == fraction]
        settings.sort(key=lambda s: -s.mean(VALIDATION).mean)
        own = next(filter(self.is_asked, settings), None)
        if own is not None:
            equal = (i for i, s in enumerate(settings) if s == own or not differ(s, own))
            place = next(equal)
            settings.remove(own)
            settings.insert(place, own)
        return settings

    def is_asked(self, setting: Setting) -> bool:
        """Tell whether a setting is that of params.yaml, whatever its number of labels."""
        return replace(setting, label_fraction=self.asked.label_fraction) == self.asked

    def own(self, grid: Sequence[Setting], fraction: Labels) -> Setting | None:
        """Return the best setting of params.yaml's method."""
        ranked = self.ranked(grid, fraction)
        return next((s for s in ranked if s.method == self.asked.method), None)

    def _compare_methods(self, grid: Sequence[Setting]) -> list[Comparison]:
        best = self.best(grid)
        pairs = [
            (b, a)
            for a, b in itertools.combinations(best, 2)
            if a.label_fraction == b.label_fraction
        ]
        return compare(pairs)

    def _verdict(self, fraction: Labels) -> Verdict:
        best, *others = self.ranked(self.grid, fraction)
        settings = self.by_validation(self.grid, fraction)
        tied = [s for s in settings if s != best and not differ(best, s)]
        found = {c.b: c for c in against(best, self.between_methods)}
        baseline = next((s for s in others if s.method == _BASELINE), None)
        over_next = found.get(others[0]) if others else None
        return Verdict(best, tied, over_next, found.get(baseline) if baseline else None)


def fractions(grid: Sequence[Setting]) -> list[Labels]:
    """Return the label fractions by their number of labels, ascending."""
    found = {s.label_fraction: s.first.num_labeled for s in grid}
    return sorted(found, key=lambda fraction: (found[fraction], fraction or 0))
