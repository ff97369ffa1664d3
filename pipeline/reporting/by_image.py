"""Two settings on the same images: what can be said even with one seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.reporting.evidence import Result

ALPHA = 0.05
_RESAMPLINGS = 10_000
# Of images with all their differences on one side, so many show a difference; fewer never do.
FEWEST = math.floor(math.log2(2 / ALPHA)) + 1


@dataclass(frozen=True)
class ByImage:
    """What ``a`` and ``b`` get right of the same images, summed over the seeds that both have."""

    num_seeds: int
    num_images: int  # of one seed
    only_a: int  # images that a alone gets right
    only_b: int
    mean: float  # a - b, in accuracy
    low: float  # 95% bootstrap interval over images
    high: float
    p: float  # exact McNemar test; of several seeds only if each has images of its own

    def reversed(self) -> "ByImage":
        """Return ``b - a``."""
        return ByImage(
            self.num_seeds,
            self.num_images,
            self.only_b,
            self.only_a,
            -self.mean,
            -self.high,
            -self.low,
            self.p,
        )


def by_image(
    a: Sequence[Result], b: Sequence[Result], part: Literal["val", "test"]
) -> ByImage | None:
    """Compare two settings image by image; ``None`` if no seed has both."""
    ours, theirs = ({r.cell.seed: r for r in results} for results in (a, b))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    right = [(ours[s].right(part), theirs[s].right(part)) for s in seeds]
    difference = [x.astype(np.int64) - y for x, y in right]  # -1, 0, 1
    # Seeds share their test images; of validation images each has its own.
    images = np.mean(difference, axis=0) if part == "test" else np.concatenate(difference)
    low, high = _interval(images.astype(np.float64))
    only_a, only_b = (sum(int((d == side).sum()) for d in difference) for side in (1, -1))
    return ByImage(
        num_seeds=len(seeds),
        num_images=len(difference[0]),
        only_a=only_a,
        only_b=only_b,
        mean=float(images.mean()),
        low=low,
        high=high,
        p=mcnemar(only_a, only_b),
    )


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


def can_tell(a: Sequence[Result], b: Sequence[Result]) -> bool:
    """Tell whether validation images show a difference between two settings, over all seeds."""
    found = by_image(a, b, "val")
    return found is not None and found.p < ALPHA


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% percentile interval of the mean over fixed resamplings of ``[N]`` images."""
    values, counts = np.unique(differences, return_counts=True)  # few, so drawing is quick
    draws = np.random.default_rng(0).multinomial(
        len(differences), counts / len(differences), size=_RESAMPLINGS
    )
    low, high = np.quantile(draws @ values / len(differences), [0.025, 0.975])
    return float(low), float(high)
