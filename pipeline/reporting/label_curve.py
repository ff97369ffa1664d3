"""How many labels a method needs: accuracy as a power law of the number of labels."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

MIN_FRACTIONS = 3  # as many as the law has parameters
REACH = 4.0  # times the largest measured number of labels
_RESAMPLES = 200
Law = NDArray[np.float64]  # [3]: ceiling, scale, exponent
_NO_LAW = np.zeros(3)  # reaches no accuracy


@dataclass(frozen=True)
class LabelCurve:
    """A fitted law, and the laws of resampled seeds."""

    law: Law
    resampled: tuple[Law, ...]  # empty with one seed
    smallest: float  # number of labels measured
    largest: float
    misfit: float  # largest distance of a measured mean from the law

    def accuracy(self, num_labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fitted accuracies.

        Raises:
            ValueError: Beyond ``REACH`` times the largest measured number of labels.
        """
        if np.max(num_labels) > self.limit * (1 + 1e-9):
            raise ValueError(
                f"{np.max(num_labels):g} labels is beyond {REACH:g} times the largest measured "
                f"number, {self.largest:g}; the law says nothing there."
            )
        return power_law(num_labels, *self.law)

    @property
    def limit(self) -> float:
        """The largest number of labels that the law is asked about."""
        return REACH * self.largest

    def labels_needed(self, accuracy: float) -> tuple[float, float, float]:
        """Return the labels needed for an accuracy, and the 95% bootstrap interval.

        ``inf`` stands for more than ``limit``: refused, not extrapolated.
        """
        value = self._needed(accuracy, self.law)
        if not self.resampled:
            return value, value, value
        needed = [self._needed(accuracy, law) for law in self.resampled]
        low, high = np.quantile(needed, [0.025, 0.975], method="inverted_cdf")  # inf stays inf
        return value, float(low), float(high)

    def _needed(self, accuracy: float, law: Law) -> float:
        ceiling, scale, exponent = law
        if accuracy >= ceiling or exponent <= 0:
            return float("inf")
        needed = float((scale / (ceiling - accuracy)) ** (1 / exponent))
        return needed if needed <= self.limit else float("inf")


def labels_saved(
    baseline: LabelCurve, method: LabelCurve, accuracy: float
) -> tuple[float, float, float] | None:
    """Return how many labels fewer a method needs, with an interval; None if either is refused.

    Both were resampled by the same draws of seeds, so the interval is that of paired differences.
    """
    value = baseline.labels_needed(accuracy)[0] - method.labels_needed(accuracy)[0]
    if not np.isfinite(value):
        return None
    pairs = zip(baseline.resampled, method.resampled, strict=False)
    saved = [baseline._needed(accuracy, b) - method._needed(accuracy, m) for b, m in pairs]
    finite = [s for s in saved if np.isfinite(s)]
    if not finite or len(finite) < len(saved):
        return value, float("nan"), float("nan")  # some resamples are refused: no honest interval
    low, high = np.quantile(finite, [0.025, 0.975])
    return value, float(low), float(high)


def power_law(
    num_labels: NDArray[np.float64], ceiling: float, scale: float, exponent: float
) -> NDArray[np.float64]:
    """Return ``ceiling - scale * num_labels ** -exponent``."""
    return ceiling - scale * num_labels**-exponent


def fit_label_curve(
    num_labels: NDArray[np.float64], accuracy: Mapping[int, NDArray[np.float64]]
) -> LabelCurve | None:
    """Fit the law to means over seeds, and again to resampled seeds.

    Args:
        num_labels: ``[F]``, at least ``MIN_FRACTIONS`` different ones.
        accuracy: ``[F]`` for each seed.

    Returns:
        The curve, or None if there are too few points or the fit does not converge.
    """
    seeds = sorted(accuracy)
    if len(np.unique(num_labels)) < MIN_FRACTIONS or not seeds:
        return None
    table = np.array([accuracy[seed] for seed in seeds])  # [S, F]

    @functools.cache  # few seeds have few different resamples
    def fit(picks: tuple[int, ...]) -> Law | None:
        return _fit(num_labels, table[list(picks)].mean(axis=0))

    law = fit(tuple(range(len(seeds))))
    if law is None:
        return None
    resampled: list[Law] = []
    if len(seeds) > 1:
        draws = np.random.default_rng(0).integers(len(seeds), size=(_RESAMPLES, len(seeds)))
        laws = [fit(tuple(sorted(draw.tolist()))) for draw in draws]
        resampled = [_NO_LAW if found is None else found for found in laws]  # keeps draws paired
    return LabelCurve(
        law,
        tuple(resampled),
        smallest=float(num_labels.min()),
        largest=float(num_labels.max()),
        misfit=float(np.abs(power_law(num_labels, *law) - table.mean(axis=0)).max()),
    )


def _fit(num_labels: NDArray[np.float64], accuracy: NDArray[np.float64]) -> Law | None:
    unit = num_labels.min()  # the scale in units of an accuracy, whatever the exponent
    bounds = ((0.0, 0.0, 0.01), (1.0, 1.0, 5.0))
    start = (min(1.0, accuracy.max() + 0.01), min(1.0, np.ptp(accuracy) + 0.01), 1.0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # its covariance is not used
            law, _ = curve_fit(power_law, num_labels / unit, accuracy, start, bounds=bounds)
    except RuntimeError:  # did not converge
        return None
    ceiling, scale, exponent = law
    return np.array([ceiling, scale * unit**exponent, exponent])
