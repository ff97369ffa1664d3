"""Intervals and tests over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_1samp

_EQUAL = 1e-12  # a spread below it is rounding


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its 95% t interval; without spread there is no interval."""

    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference(Spread):
    """A mean paired difference, and the two-sided p-value of no difference."""

    p: float | None

    def reversed(self) -> "Difference":
        """Return the difference the other way round."""
        low, high = (None if v is None else -v for v in (self.high, self.low))
        return Difference(self.n, -self.mean, low, high, self.p)


def mean_over_seeds(values: Sequence[float]) -> Spread:
    """Return the mean and its 95% t interval.

    One value, or equal ones, say nothing about the spread: then the interval is None. (Accuracies
    are counts over one test set, so equal values are chance and no proof of precision.)
    """
    difference = _t_test(values)
    return Spread(difference.n, difference.mean, difference.low, difference.high)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """Return ``a - b`` over the seeds that both have; None if there are none."""
    seeds = sorted(a.keys() & b.keys())
    return _t_test([a[seed] - b[seed] for seed in seeds]) if seeds else None


def _t_test(values: Sequence[float]) -> Difference:
    n, mean = len(values), float(np.mean(values))
    if np.ptp(values) < _EQUAL:
        return Difference(n, mean, None, None, None)
    test = ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    return Difference(n, mean, float(low), float(high), float(test.pvalue))


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
