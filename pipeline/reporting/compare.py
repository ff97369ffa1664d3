"""Settings side by side: which to prefer, and by how much."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.reporting.runs import Labels, Run
from pipeline.reporting.statistics import (
    ALPHA,
    ByImage,
    Spread,
    by_image,
    holm,
    mean_over_seeds,
    paired_difference,
)
from semimae.options.grid import PLAIN

TOP1, VALIDATION = "top1", "val_top1"  # columns of ablation.csv


@dataclass(frozen=True)
class Setting:
    """What the grid varies, and the runs that then differ in the seed only."""

    method: str
    mask_ratio: float | None
    label_fraction: Labels
    variant: str = PLAIN
    runs: list[Run] = field(default_factory=list, compare=False)

    @property
    def first(self) -> Run:
        """The run that stands for all of them."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """A name for people, without the labels."""
        return self.first.setting

    def mean(self, column: str = TOP1) -> Spread:
        """Return the mean and interval of a column of ablation.csv that every run has."""
        return mean_over_seeds([getattr(run, column) for run in self.runs]).clipped()

    def mean_known(self, column: str) -> Spread | None:
        """Return the same over the runs that have the column; None if no run has it."""
        known = [value for run in self.runs if (value := getattr(run, column)) is not None]
        return mean_over_seeds(known).clipped() if known else None


class Comparison(NamedTuple):
    """``a - b`` in an accuracy on the same seeds and labels."""

    a: Setting
    b: Setting
    difference: Spread
    images: ByImage | None = None  # the same image by image
    p: float | None = None  # adjusted; with one seed, of McNemar's test on the images
    tests: int = 1  # how many it is adjusted for

    @property
    def is_significant(self) -> bool:
        """Whether a difference over seeds is significant after correction."""
        return self.difference.n > 1 and self.p is not None and self.p < ALPHA

    def reversed(self) -> "Comparison":
        """Return ``b - a``."""
        back, images = self.difference.reversed(), self.images and self.images.reversed()
        return self._replace(a=self.b, b=self.a, difference=back, images=images)


def by_setting(runs: Iterable[Run]) -> list[Setting]:
    """Group runs that differ in the seed only; the order of first appearance is kept."""
    found: dict[Setting, Setting] = {}
    for run in runs:
        setting = Setting(run.method, run.mask_ratio, run.label_fraction, run.variant)
        found.setdefault(setting, setting).runs.append(run)
    return list(found)


def compare(pairs: Iterable[tuple[Setting, Setting]], column: str = TOP1) -> list[Comparison]:
    """Return the differences of pairs in an accuracy; a pair without a common seed is left out.

    P-values are adjusted for the number of pairs.
    """
    found: list[Comparison] = []
    for a, b in pairs:
        ours, theirs = ({run.seed: getattr(run, column) for run in s.runs} for s in (a, b))
        if (difference := paired_difference(ours, theirs)) is not None:
            images = _by_image(a, b, "test") if column == TOP1 else None
            p = images.p if images and difference.n == 1 else difference.p
            found.append(Comparison(a, b, difference, images, p))
    adjusted = holm([c.p for c in found])
    return [c._replace(p=p, tests=len(found)) for c, p in zip(found, adjusted, strict=True)]


def against(setting: Setting, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return a setting's differences to the others, largest lead first."""
    both = [*comparisons, *(c.reversed() for c in comparisons)]
    return sorted((c for c in both if c.a == setting), key=lambda c: -c.difference.mean)


def same_validation(runs: Sequence[Run]) -> bool:
    """Tell whether runs have the same validation images, as seeds have with folds of all labels."""
    rows = [run.predictions.get("val_row") for run in runs if run.folders]
    first = rows[0] if rows else None
    return first is not None and all(r is not None and np.array_equal(r, first) for r in rows)


def validation_by_image(a: Setting, b: Setting) -> ByImage | None:
    """Compare two settings on their validation images; None where a kept table has none."""
    return _by_image(a, b, "val") if _has_images(a, b) else None


def differ(a: Setting, b: Setting) -> bool:
    """Tell whether validation images, over all seeds, show a difference between two settings.

    A kept table has no images: then the order of the accuracies stands, unless they are equal.
    """
    if not _has_images(a, b):
        return not math.isclose(a.mean(VALIDATION).mean, b.mean(VALIDATION).mean)
    found = validation_by_image(a, b)
    return found is not None and found.p < ALPHA


def _has_images(a: Setting, b: Setting) -> bool:
    return all(run.folders for run in (*a.runs, *b.runs))


def _by_image(a: Setting, b: Setting, part: str) -> ByImage | None:
    right = [{run.seed: run.right(part) for run in s.runs if run.folders} for s in (a, b)]
    return by_image(*right, shared=part == "test" or same_validation([*a.runs, *b.runs]))
