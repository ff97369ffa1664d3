"""How far the headline's probabilities can be trusted, and what abstaining gains."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline.reporting.blocks import (
    NONE,
    Entry,
    Figure,
    Table,
    Text,
    Value,
    count,
    interval,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.class_figures import reliability
from pipeline.reporting.evidence import Result
from pipeline.reporting.figures import PERCENT, percent_axis
from pipeline.reporting.plotting import ACCENT, draw
from pipeline.reporting.runs import run_link
from semimae.calibration import MIN_IMAGES
from semimae.evaluation.metrics import Estimate, Scores, proportion

_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def as_used(headline: Result) -> Scores:
    """Return the scores of the probabilities that `predict` gives."""
    return headline.scores.get("calibrated", headline.scores["classifier"])


def calibration_text(headline: Result) -> Text:
    """Say how the probabilities were calibrated, and what that changed."""
    images = f"{count(headline.num_val)} validation images"
    before = headline.scores["classifier"].ece
    if headline.temperature is None:
        return Text(
            f"Probabilities are the network's own, since {images} are too few to fit a temperature "
            f"(at least {MIN_IMAGES}): expected calibration error {_error(before)}."
        )
    after = headline.scores["calibrated"].ece
    return Text(
        f"Probabilities are calibrated by a temperature of {headline.temperature:.2f}, fitted on "
        f"{images} and stored with the model: expected calibration error {_error(before)} before, "
        f"{_error(after)} after."
    )


def confidence_figures(headline: Result, command: str) -> list[Figure]:
    """Draw calibration, and accuracy over coverage."""
    return [_calibration_figure(headline, command), _coverage_figure(headline, command)]


def _error(ece: Estimate) -> str:
    return f"{percent(ece.value)}% {interval(ece.low, ece.high)}"


def _calibration_figure(headline: Result, command: str) -> Figure:
    bins = as_used(headline).calibration
    rows: list[list[Entry]] = []
    for i, b in enumerate(bins):
        means = (b.confidence, b.accuracy) if b.num_images else (None, None)
        name = f"{100 * i / len(bins):.0f} to {100 * (i + 1) / len(bins):.0f}"
        rows.append([name, count(b.num_images), *map(percent, means)])
    calibrated = "" if headline.temperature is None else ", with its temperature"
    return Figure(
        name="calibration",
        alt="Test accuracy of the classifier over its confidence, beside the diagonal.",
        caption=(
            f"Calibration, classifier{calibrated}: accuracy over confidence; a larger point is "
            "more images, below the diagonal is overconfident."
        ),
        svg=reliability(bins),
        table=Table(
            "Test images by confidence; means of each bin.",
            [
                *text_columns("Confidence from, to %"),
                *number_columns("Images", "Confidence %", "Accuracy %"),
            ],
            rows,
            folded=True,
        ),
        command=command,
        sources=[run_link(headline)],
    )


def _coverage_figure(headline: Result, command: str) -> Figure:
    confidence, right = headline.predictions["test_confidence"], headline.right("test")
    rows: list[list[Entry]] = []
    for threshold in _THRESHOLDS:
        kept = right[confidence >= threshold]
        share = proportion(int(kept.sum()), len(kept))
        accuracy = Value(percent(share.value), interval(share.low, share.high))
        answered = len(kept) / len(right)
        rows.append([f"{threshold:g}", percent(answered), accuracy if len(kept) else NONE])
    return Figure(
        name="accuracy_over_coverage",
        alt="Test accuracy of the most confident images over their share.",
        caption=(
            "Accuracy over coverage: of the share of test images that the classifier is surest of. "
            "The table says which share `predict --abstain` leaves."
        ),
        svg=_coverage_curve(*accuracy_over_coverage(confidence, right)),
        table=Table(
            "Test images whose probability reaches a threshold, with 95% Wilson intervals.",
            number_columns("--abstain", "Coverage %", "Accuracy %"),
            rows,
            folded=True,
        ),
        command=command,
        sources=[run_link(headline)],
    )


def accuracy_over_coverage(
    confidence: NDArray[np.float32], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverages, ascending, and the accuracy of the surest images that each leaves.

    Images of equal confidence come and go together.
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0))
    kept = ends + 1.0
    return kept / len(right), np.cumsum(right[order])[ends] / kept


def _coverage_curve(coverage: NDArray[np.float64], accuracy: NDArray[np.float64]) -> str:
    def paint(axes: Axes) -> None:
        axes.plot(coverage, accuracy, color=ACCENT, linewidth=1.2, drawstyle="steps-post")
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_formatter(PERCENT)
        percent_axis(axes, "coverage, %", "accuracy, %")

    return draw(paint, height=3.4)
