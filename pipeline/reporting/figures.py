"""The drawings. Each takes numbers that are ready and returns an SVG."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.reporting.plotting import (
    draw,
    draw_panels,
    line_colors,
)
from pipeline.reporting.statistics import Spread

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g}")


class Curve(NamedTuple):
    """A line with the range of the seeds around it."""

    label: str
    color: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]  # [seeds, steps]


class Points(NamedTuple):
    """Means with intervals along a horizontal axis; without positions, a band across it."""

    label: str
    color: str
    marker: str
    positions: Sequence[float]
    spreads: Sequence[Spread]


def points_with_intervals(
    series: Sequence[Points], ticks: Mapping[float, str], xlabel: str, *, log: bool = False
) -> str:
    """Draw means with 95% intervals."""

    def paint(axes: Axes) -> None:
        if log:
            axes.set_xscale("log")
        values = sorted(ticks)
        room = values[-1] / values[0] if log else values[-1] - values[0]
        axes.set_xlim(_margins(values, log))
        for i, points in enumerate(series):
            if not points.positions:
                _band(axes, points)
                continue
            # Beside each other, so that equal means can be told apart.
            shift = (i - (len(series) - 1) / 2) * 0.015
            x = [p * room**shift if log else p + shift * (room or 0.5) for p in points.positions]
            means = [s.mean for s in points.spreads]
            axes.plot(x, means, color=points.color, marker=points.marker, label=points.label)
            for position, s in zip(x, points.spreads, strict=True):
                if s.low is not None and s.high is not None:
                    low, high = max(0.0, s.low), min(1.0, s.high)
                    axes.errorbar(
                        position,
                        s.mean,
                        [[s.mean - low], [high - s.mean]],
                        color=points.color,
                        capsize=3,
                        linewidth=1.2,
                    )
        axes.set_xticks(values, [ticks[value] for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=False, axis="x")
        percent_axis(axes, xlabel, "test top-1, %")

    return draw(paint)


def curves(panels: Mapping[str, Sequence[Curve]], xlabel: str = "step") -> str:
    """Draw curves over steps; the shade reaches from the lowest to the highest seed."""

    def paint(all_axes: list[Axes]) -> None:
        for axes, (ylabel, lines) in zip(all_axes, panels.items(), strict=True):
            for line in lines:
                axes.plot(line.steps, line.values.mean(axis=0), color=line.color, label=line.label)
                if len(line.values) > 1:
                    low, high = line.values.min(axis=0), line.values.max(axis=0)
                    axes.fill_between(
                        line.steps, low, high, color=line.color, alpha=0.15, linewidth=0
                    )
            if is_share(ylabel):
                percent_axis(axes, "", ylabel)
            axes.set_ylabel(ylabel)
        all_axes[-1].set_xlabel(xlabel)
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return draw_panels(paint, len(panels), max(3.1, 0.7 + 1.3 * len(panels)))


def is_share(label: str) -> bool:
    """Return whether an axis of that name shows proportions as percent or as points."""
    return label.endswith(("%", "points"))


def lines(named: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str) -> str:
    """Draw plain lines over steps."""

    def paint(axes: Axes) -> None:
        for color, (label, (steps, values)) in zip(line_colors(), named.items(), strict=False):
            axes.plot(steps, values, color=color, label=label)
        axes.set_ylabel(ylabel)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return draw(paint)


def label_curves(
    fits: Mapping[str, tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    measured: Sequence[Points],
) -> str:
    """Draw fitted accuracies over the number of labels, and the measured means they go through."""

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        for color, x, y in fits.values():
            axes.plot(x, y, color=color, linewidth=1.2, linestyle="--")
        for points in measured:
            means = [s.mean for s in points.spreads]
            axes.plot(
                points.positions,
                means,
                color=points.color,
                marker=points.marker,
                linestyle="none",
                label=points.label,
            )
        positions = sorted({p for points in measured for p in points.positions})
        ends = [*positions, 4 * positions[-1]]
        axes.set_xticks(ends, [f"{p:g}" for p in ends])
        axes.xaxis.set_minor_locator(NullLocator())
        percent_axis(axes, "labeled images", "test top-1, %")

    return draw(paint)


def _band(axes: Axes, points: Points) -> None:
    (spread,) = points.spreads
    axes.axhline(spread.mean, color=points.color, linestyle="--", linewidth=1.2, label=points.label)
    if spread.low is not None and spread.high is not None:
        low, high = max(0.0, spread.low), min(1.0, spread.high)
        axes.axhspan(low, high, color=points.color, alpha=0.1, linewidth=0)
        axes.hlines(
            [low, high],
            0,
            1,
            points.color,
            linewidth=0.6,
            alpha=0.6,
            transform=axes.get_yaxis_transform(),
        )


def _margins(values: Sequence[float], log: bool) -> tuple[float, float]:
    first, last = values[0], values[-1]
    if log:
        room = max(1.15, (last / first) ** 0.12)
        return first / room, last * room
    room = max(0.05, (last - first) * 0.12)
    return first - room, last + room


def percent_axis(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes, the vertical one in percent."""
    axes.yaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
