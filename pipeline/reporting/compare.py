"""Settings side by side: which to prefer, and by how much."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.reporting.by_image import ALPHA, ByImage, by_image, can_tell
from pipeline.reporting.evidence import Result
from pipeline.reporting.statistics import (
    Difference,
    Spread,
    holm,
    mean_over_seeds,
    paired_difference,
)
from semimae.options.grid import PLAIN

Metric = Callable[[Result], float]
Labels = float | None  # a label fraction; None: what the headline has instead
BASELINE = "supervised"
_NAMES = {
    "fixmatch": "FixMatch",
    "flexmatch": "FlexMatch",
    "freematch": "FreeMatch",
    "mae": "MAE",
    "mae_finetune": "MAE, fine-tuned",
    "semi_mae": "Semi-MAE",
    "semi_vit": "Semi-ViT",
    "softmatch": "SoftMatch",
    "ssmae": "SSMAE",
}


# Of variants, where the setting is better known by another name.
_VARIANT_NAMES = {
    ("supervised", "small_cnn"): "Small CNN, labels alone",
    ("fixmatch", "small_cnn"): "Small CNN, FixMatch",
}


class Setting(NamedTuple):
    """What the grid varies, apart from the seed."""

    method: str
    mask_ratio: float | None
    label_fraction: Labels
    variant: str = PLAIN

    @property
    def name(self) -> str:
        """A name for people, without the labels."""
        if own := _VARIANT_NAMES.get((self.method, self.variant)):
            return own
        ratio = "" if self.mask_ratio is None else f", mask {self.mask_ratio:g}"
        variant = "" if self.variant == PLAIN else f", {self.variant}"
        return method_name(self.method) + ratio + variant


Grid = dict[Setting, list[Result]]


class Comparison(NamedTuple):
    """``a - b`` in test accuracy on the same seeds and labels."""

    a: Setting
    b: Setting
    difference: Difference
    adjusted_p: float | None
    images: ByImage | None = None  # the same image by image
    images_p: float | None = None  # with one seed: of McNemar's test, adjusted

    @property
    def is_shown(self) -> bool:
        """Whether a difference is shown after correction for the number of comparisons."""
        return self.adjusted_p is not None and self.adjusted_p < ALPHA

    def reversed(self) -> "Comparison":
        """Return ``b - a``."""
        images = self.images and self.images.reversed()
        return Comparison(
            self.b, self.a, self.difference.reversed(), self.adjusted_p, images, self.images_p
        )


@dataclass(frozen=True)
class Verdict:
    """What to prefer for one label fraction: validation accuracy chooses, the test set judges."""

    best: Setting
    tied: list[Setting]  # what validation cannot tell from it, best first
    over_next: Comparison | None  # the method that validation puts second
    over_baseline: Comparison | None


def method_name(method: str) -> str:
    """Return a method's name for people."""
    return _NAMES.get(method, method.replace("_", " ").capitalize())


def top1(protocol: str = "classifier") -> Metric:
    """Return the function that reads a protocol's test accuracy."""
    return lambda result: result.scores[protocol].top1.value


def val_top1(result: Result) -> float:
    """Return a result's validation accuracy."""
    return result.val_top1


def mean_of_last(results: Iterable[Result], key: str) -> float | None:
    """Return the mean of a metric's last values over the runs that log it, if any does."""
    known = [value for result in results if (value := result.last(key)) is not None]
    return sum(known) / len(known) if known else None


def setting_of(result: Result) -> Setting:
    """Return a result's setting."""
    cell = result.cell
    return Setting(cell.method, cell.mask_ratio, cell.label_fraction, result.variant)


def by_setting(results: Iterable[Result]) -> Grid:
    """Group results that differ in the seed only; the order of first appearance is kept."""
    grid: Grid = defaultdict(list)
    for result in results:
        grid[setting_of(result)].append(result)
    return dict(grid)


def fractions(grid: Grid) -> list[Labels]:
    """Return the label fractions by their number of labels, ascending."""
    found = {s.label_fraction: results[0].num_labeled for s, results in grid.items()}
    return sorted(found, key=lambda fraction: (found[fraction], fraction or 0))


def over_seeds(results: Iterable[Result], metric: Metric) -> Spread:
    """Return a metric's mean and interval over seeds."""
    return mean_over_seeds([metric(result) for result in results])


def ranked(grid: Grid, label_fraction: Labels, asked: Setting) -> list[Setting]:
    """Return each method's best setting for a label fraction, best method first.

    The validation split alone decides, here and between a method's settings, so that the test
    accuracies that are compared afterwards took no part in the choice. Where it cannot tell
    settings apart, the one of params.yaml comes first, which was chosen before any result.

    Args:
        grid: The results.
        label_fraction: Of the settings to rank.
        asked: The setting of params.yaml, with any label fraction.
    """
    best: dict[str, Setting] = {}
    for setting in _by_validation(grid, label_fraction, asked):
        best.setdefault(setting.method, setting)
    return list(best.values())


def best_of_variants(
    grid: Grid, label_fraction: Labels, asked: Setting
) -> dict[tuple[str, str], Setting]:
    """Return the best mask ratio by validation of each method and variant."""
    best: dict[tuple[str, str], Setting] = {}
    for setting in _by_validation(grid, label_fraction, asked):
        best.setdefault((setting.method, setting.variant), setting)
    return {(s.method, s.variant): best[s.method, s.variant] for s in grid if s in best.values()}


def _by_validation(grid: Grid, label_fraction: Labels, asked: Setting) -> list[Setting]:
    """Return the settings with a label fraction, the best first; of equals the first in the grid.

    The one that was asked for is before those that validation cannot tell from it.
    """
    settings = [setting for setting in grid if setting.label_fraction == label_fraction]
    settings.sort(key=lambda s: -over_seeds(grid[s], val_top1).mean)
    own = asked._replace(label_fraction=label_fraction)
    if own in settings:
        equal = (i for i, s in enumerate(settings) if s == own or not can_tell(grid[s], grid[own]))
        place = next(equal)
        settings.remove(own)
        settings.insert(place, own)
    return settings


def method_comparisons(grid: Grid, asked: Setting) -> list[Comparison]:
    """Compare all pairs of methods, each at its best setting, for each label fraction."""
    order = list(dict.fromkeys(setting.method for setting in grid))
    pairs: list[tuple[Setting, Setting]] = []
    for fraction in fractions(grid):
        settings = sorted(ranked(grid, fraction, asked), key=lambda s: order.index(s.method))
        pairs += [(b, a) for a, b in itertools.combinations(settings, 2)]
    return compare(grid, pairs)


def setting_comparisons(grid: Grid, asked: Setting) -> list[Comparison]:
    """Compare a method's other settings with its best one, for each label fraction."""
    pairs = [
        (best, other)
        for fraction in fractions(grid)
        for best in ranked(grid, fraction, asked)
        for other in grid
        if other != best
        and (other.method, other.label_fraction) == (best.method, best.label_fraction)
    ]
    return compare(grid, pairs)


def verdict(
    grid: Grid, label_fraction: Labels, comparisons: Sequence[Comparison], asked: Setting
) -> Verdict:
    """Say what to prefer for a label fraction, from the comparisons of the methods."""
    best, *others = ranked(grid, label_fraction, asked)
    tied = [
        setting
        for setting in _by_validation(grid, label_fraction, asked)
        if setting != best and not can_tell(grid[best], grid[setting])
    ]

    def over(other: Setting | None) -> Comparison | None:
        for comparison in comparisons:
            if (comparison.a, comparison.b) == (best, other):
                return comparison
            if (comparison.b, comparison.a) == (best, other):
                return comparison.reversed()
        return None

    baseline = next((s for s in others if s.method == BASELINE), None)
    return Verdict(best, tied, over(others[0] if others else None), over(baseline))


def compare(
    grid: Grid, pairs: Iterable[tuple[Setting, Setting]], metric: Metric | None = None
) -> list[Comparison]:
    """Return the differences of pairs in a metric, by default the classifier's test accuracy.

    P-values are adjusted for the number of pairs. A pair without a common seed is left out.
    """
    of = top1() if metric is None else metric

    def accuracies(setting: Setting) -> dict[int, float]:
        return {result.cell.seed: of(result) for result in grid[setting]}

    found = [
        Comparison(a, b, difference, None, None if metric else by_image(grid[a], grid[b], "test"))
        for a, b in pairs
        if (difference := paired_difference(accuracies(a), accuracies(b))) is not None
    ]
    by_seeds = holm([c.difference.p for c in found])
    by_images = holm([c.images.p if c.images and c.difference.n == 1 else None for c in found])
    return [
        c._replace(adjusted_p=p, images_p=q)
        for c, p, q in zip(found, by_seeds, by_images, strict=True)
    ]
