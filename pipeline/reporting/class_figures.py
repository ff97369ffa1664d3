"""Drawings of what a classifier does with each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.reporting.figures import PERCENT, percent_axis
from pipeline.reporting.plotting import ACCENT, INK, MUTED, ON_ACCENT, draw, fading, line_colors
from semimae.evaluation.metrics import Bin, Estimate


def class_accuracy(names: Sequence[str], estimates: Sequence[Estimate]) -> str:
    """Draw each class's accuracy with its interval."""

    def paint(axes: Axes) -> None:
        y = np.arange(len(names))
        value = np.array([e.value for e in estimates])
        low, high = (np.array([getattr(e, k) for e in estimates]) for k in ("low", "high"))
        errors = [value - low, high - value]
        axes.errorbar(value, y, xerr=errors, fmt="o", color=line_colors()[2], linewidth=1.2)
        axes.set_yticks(y, [_short(name) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(min(0.5, float(low.min()) - 0.02), 1.01)
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("test accuracy, %")
        axes.set_ylabel("class")

    return draw(paint, height=max(2.6, 0.9 + 0.22 * len(names)))


def confusion_matrix(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Draw the share of each true class that each class is taken for."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def paint(axes: Axes) -> None:
        axes.imshow(share, cmap=fading(), vmin=0, vmax=1, interpolation="none")
        short = [_short(name) for name in names]
        wide = max(map(len, short)) > 3
        size = 9 if len(names) <= 12 else 6 if len(names) <= 25 else 4
        y = range(len(names))
        axes.set_xticks(y, short, rotation=90 if wide else 0, fontsize=size)
        axes.set_yticks(y, short, fontsize=size)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if len(names) <= 25:
            for i, j in np.argwhere(counts):
                color = ON_ACCENT if share[i, j] > 0.5 else INK
                label = str(counts[i, j])
                axes.text(j, i, label, ha="center", va="center", color=color, fontsize=size - 1)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")

    return draw(paint, height=4.4)


def reliability(bins: Sequence[Bin]) -> str:
    """Draw accuracy over confidence; on the diagonal the two are equal."""
    filled = [b for b in bins if b.num_images]
    largest = max(b.num_images for b in filled)

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
        x, y = [b.confidence for b in filled], [b.accuracy for b in filled]
        axes.plot(x, y, color=ACCENT, linewidth=1)
        sizes = [12 + 120 * b.num_images / largest for b in filled]
        axes.scatter(x, y, sizes, color=ACCENT, linewidth=0)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.xaxis.set_major_formatter(PERCENT)
        percent_axis(axes, "confidence, %", "accuracy, %")

    return draw(paint, height=3.4)


def class_shares(
    names: Sequence[str], steps: NDArray[np.float64], shares: NDArray[np.float64]
) -> str:
    """Draw shares ``[classes, steps]``, at even steps, as shades; the darkest is the largest."""

    def paint(axes: Axes) -> None:
        extent = (0.0, float(steps[-1]), len(names) - 0.5, -0.5)
        axes.imshow(
            shares, cmap=fading(), vmin=0, extent=extent, aspect="auto", interpolation="none"
        )
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel("class")

    return draw(paint, height=max(2.6, 0.9 + 0.22 * len(names)))


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
