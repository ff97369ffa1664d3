"""The evidence with its comparisons made: what every part of the report draws on."""

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from pipeline.reporting.compare import (
    BASELINE,
    Comparison,
    Grid,
    Labels,
    Pair,
    Setting,
    Verdict,
    by_setting,
    compare,
    differ,
    over_seeds,
    val_top1,
)
from pipeline.reporting.runs import Evidence, Run
from semimae.options.method import METHODS


@dataclass(frozen=True, eq=False)
class Analysis:
    """The evidence with its comparisons made: what every part of the report draws on."""

    evidence: Evidence

    @cached_property
    def grid(self) -> Grid:
        """The settings of equal steps, baselines left out."""
        return by_setting(self.evidence.grid)

    @cached_property
    def timed(self) -> Grid:
        """The settings of equal time."""
        return by_setting(self.evidence.timed)

    @cached_property
    def baselines(self) -> Grid:
        """What the grid is held against; nothing is chosen among them."""
        return by_setting(self.evidence.baselines)

    @property
    def with_baselines(self) -> Grid:
        """All settings of equal steps, those last that the grid is held against."""
        return self.grid | self.baselines

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

    def fractions(self, grid: Grid | None = None) -> list[Labels]:
        """Return the label fractions by their number of labels, ascending."""
        settings = self.grid if grid is None else grid
        found = {s.label_fraction: runs[0].num_labeled for s, runs in settings.items()}
        return sorted(found, key=lambda fraction: (found[fraction], fraction or 0))

    @cached_property
    def main_fraction(self) -> Labels:
        """The label fraction to speak of first: the headline's, if the grid, not empty, has it."""
        found = self.fractions()
        return self.asked.label_fraction if self.asked.label_fraction in found else found[0]

    @cached_property
    def between_methods(self) -> list[Comparison]:
        """All pairs of methods, each at its best setting, for each label fraction."""
        return self.method_comparisons(self.grid)

    @cached_property
    def between_timed(self) -> list[Comparison]:
        """The same at equal time."""
        return self.method_comparisons(self.timed)

    @cached_property
    def within_methods(self) -> list[Comparison]:
        """A method's best setting less its others, for each label fraction."""
        pairs = [
            (best, other)
            for fraction in self.fractions()
            for best in self.ranked(self.grid, fraction)
            for other in self.grid
            if other != best and other[0] == best[0] and other[2] == best[2]
        ]
        return compare(self.grid, pairs)

    @cached_property
    def verdicts(self) -> dict[Labels, Verdict]:
        """What to prefer for each label fraction."""
        return {fraction: self._verdict(fraction) for fraction in self.fractions()}

    def help_of_unlabeled(self, fraction: Labels) -> Comparison | None:
        """Compare the best setting that uses unlabeled images with the best one that does not.

        Validation accuracy chooses both. Baselines count as well.
        """
        own = [s for s in self.with_baselines if s.label_fraction == fraction]
        own.sort(key=lambda s: -over_seeds(self.with_baselines[s], val_top1).mean)
        ranked = [*self.ranked(self.grid, fraction), *own]
        uses = {s: METHODS[s.method].uses_unlabeled for s in ranked if s.method in METHODS}
        of_both = next((s for s in ranked if uses.get(s)), None)
        of_labels = next((s for s in own if not uses.get(s, True)), None)
        if of_both is None or of_labels is None:
            return None
        known = {c.b: c for c in self.against(of_both, self.between_methods)}
        if of_labels in known:
            return known[of_labels]
        return next(iter(compare(self.with_baselines, [(of_both, of_labels)])), None)

    def method_comparisons(self, grid: Grid) -> list[Comparison]:
        """Compare all pairs of methods of a grid."""
        pairs: list[Pair] = []
        for fraction in self.fractions(grid):
            pairs += [(b, a) for a, b in itertools.combinations(self.best(grid, fraction), 2)]
        return compare(grid, pairs)

    def ranked(self, grid: Grid, fraction: Labels) -> list[Setting]:
        """Return each method's best setting for a label fraction, best method first.

        The validation split alone decides, here and between a method's settings, so that the test
        accuracies that are compared afterwards took no part in the choice. Where it cannot tell
        settings apart, the one of params.yaml comes first, which was chosen before any result.
        """
        best: dict[str, Setting] = {}
        for setting in self.by_validation(grid, fraction):
            best.setdefault(setting.method, setting)
        return list(best.values())

    def best(self, grid: Grid, fraction: Labels) -> list[Setting]:
        """Return each method's best setting by validation, in the order of the methods."""
        return sorted(self.ranked(grid, fraction), key=lambda s: self.methods.index(s.method))

    def by_validation(self, grid: Grid, fraction: Labels) -> list[Setting]:
        """Return the settings with a label fraction, best first; of equals the first in the grid.

        The one that was asked for is before those that validation cannot tell from it.
        """
        settings = [setting for setting in grid if setting.label_fraction == fraction]
        settings.sort(key=lambda s: -over_seeds(grid[s], val_top1).mean)
        own = self.asked._replace(label_fraction=fraction)
        if own in settings:
            equal = (i for i, s in enumerate(settings) if s == own or not differ(grid, s, own))
            place = next(equal)
            settings.remove(own)
            settings.insert(place, own)
        return settings

    def against(self, setting: Setting, comparisons: list[Comparison]) -> list[Comparison]:
        """Return a setting's differences to the others, largest lead first."""
        both = [*comparisons, *(c.reversed() for c in comparisons)]
        return sorted((c for c in both if c.a == setting), key=lambda c: -c.difference.mean)

    def own(self, grid: Grid, fraction: Labels) -> Setting | None:
        """Return the best setting of params.yaml's method."""
        ranked = self.ranked(grid, fraction)
        return next((s for s in ranked if s.method == self.asked.method), None)

    def run_of(self, fraction: Labels) -> Run:
        """Return one of the runs with a label fraction."""
        return next(run for run in self.evidence.runs if run.label_fraction == fraction)

    def num_settings(self, fraction: Labels) -> dict[str, int]:
        """Return how many settings each method has for a label fraction."""
        return dict(Counter(s.method for s in self.grid if s.label_fraction == fraction))

    def _verdict(self, fraction: Labels) -> Verdict:
        best, *others = self.ranked(self.grid, fraction)
        tied = [
            setting
            for setting in self.by_validation(self.grid, fraction)
            if setting != best and not differ(self.grid, best, setting)
        ]
        found = {c.b: c for c in self.against(best, self.between_methods)}
        baseline = next((s for s in others if s.method == BASELINE), None)
        over_baseline = None if baseline is None else found.get(baseline)
        return Verdict(best, tied, found.get(others[0]) if others else None, over_baseline)
