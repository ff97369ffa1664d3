"""Scores of a classifier on a labeled set, with intervals."""

import numpy as np
from numpy.typing import NDArray

from semimae.types import Frozen

MOST = 16  # examples: the most confident mistakes, and the least certain images
_BINS = 15  # as in arXiv:1706.04599
_Z = 1.959963984540054  # 97.5% quantile of the normal distribution


class Estimate(Frozen):
    """A proportion with its 95% Wilson interval over the test images."""

    value: float
    low: float
    high: float


class Bin(Frozen):
    """The images with a confidence in one of 15 equal bins of [0, 1]. Empty bins have zeros."""

    num_images: int
    confidence: float  # mean probability of the predicted class
    accuracy: float


class Example(Frozen):
    """An image and the classifier's prediction for it."""

    name: str
    true: int
    predicted: int
    confidence: float  # probability of the predicted class
    true_probability: float
    png: str  # the picture, at most MAX_SIDE pixels wide, in base64


class Scores(Frozen):
    """The metrics that every evaluation protocol reports."""

    num_images: int
    top1: Estimate
    top5: Estimate | None  # null for five classes or fewer
    per_class: list[Estimate]  # recall of each class, 0 for a class without images
    confusion: list[list[int]]  # rows: true class, columns: predicted class
    calibration: list[Bin]
    ece: Estimate  # expected calibration error, bootstrap interval
    nll: float  # mean negative log-likelihood, nats


def score(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> Scores:
    """Score class probabilities.

    Args:
        probabilities: ``[N, classes]``, rows sum to 1.
        labels: ``[N]``, true classes.
    """
    num_images, num_classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    pairs = labels * num_classes + predicted
    confusion = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    top5 = None
    if num_classes > 5:
        best_five = np.argpartition(probabilities, -5, axis=1)[:, -5:]
        top5 = proportion(int((best_five == labels[:, None]).sum()), num_images)
    confidence, correct = probabilities.max(axis=1), predicted == labels
    true_probability = probabilities[np.arange(num_images), labels]
    return Scores(
        num_images=num_images,
        top1=proportion(int(confusion.trace()), num_images),
        top5=top5,
        per_class=[
            proportion(int(confusion[c, c]), int(confusion[c].sum())) for c in range(num_classes)
        ],
        confusion=confusion.tolist(),
        calibration=_bins(confidence, correct),
        ece=_calibration_error(confidence, correct),
        nll=float(-np.log(true_probability.clip(1e-12)).mean()),
    )


def proportion(successes: int, trials: int) -> Estimate:
    """Return a proportion and its 95% interval. Without trials: 0, between 0 and 1.

    Source: E. B. Wilson, "Probable inference", JASA 22 (1927).
    """
    if trials == 0:
        return Estimate(value=0.0, low=0.0, high=1.0)
    share = successes / trials
    low, high = wilson(share, trials)
    return Estimate(value=share, low=low, high=high)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Return the 95% interval of a proportion. The number of trials may be a sum of weights."""
    spread = _Z**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * (share * (1 - share) / trials + spread / (4 * trials)) ** 0.5
    # At 0 and 1, one end of the interval is the proportion itself, except for rounding.
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> float:
    """Return the mean gap between confidence and accuracy over 15 equal bins of confidence.

    Source: arXiv:1706.04599, equation 3.
    """
    gap = np.bincount(_bin_of(confidence), weights=confidence - correct, minlength=_BINS)
    return float(np.abs(gap).sum() / len(confidence))


def _bin_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)


def _bins(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[Bin]:
    bins = _bin_of(confidence)
    number, sure, right = (
        np.bincount(bins, weights=weights, minlength=_BINS)
        for weights in (None, confidence, correct)
    )
    shared = np.maximum(number, 1)
    columns = (number.tolist(), (sure / shared).tolist(), (right / shared).tolist())
    return [Bin(num_images=n, confidence=c, accuracy=a) for n, c, a in zip(*columns, strict=True)]


def _calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Estimate:
    """Return the calibration error with a percentile interval over 200 fixed bootstrap samples."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(confidence), size=(200, len(confidence)))
    resampled = [expected_calibration_error(confidence[p], correct[p]) for p in picks]
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = expected_calibration_error(confidence, correct)
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))
