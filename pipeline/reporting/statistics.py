"""Intervals and tests: over seeds, and over images of two models."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, nct, t, ttest_1samp

ALPHA = 0.05
# Of images with all their differences on one side, so many show a difference; fewer never do.
FEWEST = math.floor(math.log2(2 / ALPHA)) + 1
_EQUAL = 1e-12  # a spread below it is rounding
_RESAMPLINGS = 10_000
_POWER, _MOST_SEEDS = 0.8, 50


class Spread(NamedTuple):
    """A mean over seeds with its 95% t interval; without spread there is no interval."""

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None  # two-sided, of a mean of zero

    def reversed(self) -> "Spread":
        """Return the same with its sign changed."""
        low, high = (None if v is None else 0.0 - v for v in (self.high, self.low))
        return Spread(self.n, 0.0 - self.mean, low, high, self.p)  # no minus before a zero

    def clipped(self) -> "Spread":
        """Return the spread of a proportion, its interval cut at 0 and 1."""
        if self.low is None or self.high is None:
            return self
        return self._replace(low=max(0.0, self.low), high=min(1.0, self.high))


class ByImage(NamedTuple):
    """What ``a`` and ``b`` get right of the same images, summed over the seeds that both have."""

    num_seeds: int
    num_images: int  # of one seed
    only_a: int  # images that a alone gets right
    only_b: int
    mean: float  # a - b, in accuracy
    low: float  # 95% bootstrap interval over images
    high: float
    p: float  # exact McNemar test; of several seeds on an image, their sum decides

    def reversed(self) -> "ByImage":
        """Return ``b - a``."""
        n, images, a, b, mean, low, high, p = self
        return ByImage(n, images, b, a, -mean, -high, -low, p)


def mean_over_seeds(values: Sequence[float]) -> Spread:
    """Return the mean and its 95% t interval.

    One value, or equal ones, say nothing about the spread: then the interval is None. (Accuracies
    are counts over one test set, so equal values are chance and no proof of precision.)
    """
    return _t_test(tuple(values))


@functools.cache  # tables and charts ask for the same ones
def _t_test(values: tuple[float, ...]) -> Spread:
    n, mean = len(values), float(np.mean(values))
    if np.ptp(values) < _EQUAL:
        return Spread(n, mean)
    test = ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(1 - ALPHA)
    return Spread(n, mean, float(low), float(high), float(test.pvalue))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Spread | None:
    """Return ``a - b`` over the seeds that both have; None if there are none."""
    seeds = sorted(a.keys() & b.keys())
    return mean_over_seeds([a[seed] - b[seed] for seed in seeds]) if seeds else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for their number by Holm's step-down method.

    Tests without a p-value stay so, and count towards the number.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted


def seeds_to_settle(difference: Spread, tests: int = 1) -> int | None:
    """Return how many seeds would show the difference with a probability of 80%.

    The observed mean and spread are taken for the true ones, and each p-value is multiplied by the
    number of tests.

    Args:
        difference: Paired, over two seeds or more that are not all equal.
        tests: How many tests are corrected for.

    Returns:
        The number of seeds in all; None if that is more than 50, or if nothing can be said.
    """
    if difference.low is None or difference.mean == 0:
        return None
    half = difference.mean - difference.low
    deviation = half * math.sqrt(difference.n) / t.ppf(1 - ALPHA / 2, difference.n - 1)
    for n in range(difference.n + 1, _MOST_SEEDS + 1):
        critical = t.ppf(1 - ALPHA / tests / 2, n - 1)
        shift = abs(difference.mean) / deviation * math.sqrt(n)
        if nct.sf(critical, n - 1, shift) >= _POWER:
            return n
    return None


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of two classifiers being right equally often.

    Args:
        only_a: Images that the first alone gets right.
        only_b: Images that the second alone gets right.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), with the exact binomial distribution.
    """
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b).pvalue)


def by_image(
    a: Mapping[int, NDArray[np.bool_]], b: Mapping[int, NDArray[np.bool_]], *, shared: bool
) -> ByImage | None:
    """Compare two settings image by image.

    Args:
        a: Which images the first one gets right, ``[N]`` for each seed.
        b: The same of the second one.
        shared: Whether all seeds have the same images, as they have of the test set, and of
            validation images if these are folds of all labels. Otherwise each has its own.

    Returns:
        The comparison over the seeds that both have; None if there are none.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    difference = [a[s].astype(np.int64) - b[s] for s in seeds]  # -1, 0, 1
    images = np.mean(difference, axis=0) if shared else np.concatenate(difference)
    low, high = _bootstrap(images.astype(np.float64))
    only_a, only_b = (sum(int((d == side).sum()) for d in difference) for side in (1, -1))
    return ByImage(
        num_seeds=len(seeds),
        num_images=len(difference[0]),
        only_a=only_a,
        only_b=only_b,
        mean=float(images.mean()),
        low=low,
        high=high,
        p=mcnemar(int((images > 0).sum()), int((images < 0).sum())),
    )


def _bootstrap(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% percentile interval of the mean over fixed resamplings of ``[N]`` images."""
    values, counts = np.unique(differences, return_counts=True)  # few, so drawing is quick
    draws = np.random.default_rng(0).multinomial(
        len(differences), counts / len(differences), size=_RESAMPLINGS
    )
    low, high = np.quantile(draws @ values / len(differences), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def crossing(x: Sequence[float], y: Sequence[float], target: float) -> float:
    """Return where a line through points first reaches a height, ``x`` on a logarithmic scale.

    Args:
        x: Ascending, above 0.
        y: The heights; they need not rise everywhere.
        target: The height that is asked for.

    Returns:
        ``-inf`` if the first point is there already, ``inf`` if no point is: nothing is said beyond
        what was measured.
    """
    if y[0] >= target:
        return -math.inf
    for i in range(1, len(x)):
        if y[i] >= target:
            return float(math.exp(np.interp(target, y[i - 1 : i + 1], np.log(x[i - 1 : i + 1]))))
    return math.inf
