"""How many labels do I need? Read off between the points that were measured."""

from collections.abc import Sequence
from itertools import groupby

from pipeline.reporting import tables, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Interval, Table
from pipeline.reporting.charts import LOG, Chart
from pipeline.reporting.compare import Setting
from pipeline.reporting.formats import count, percent
from pipeline.reporting.runs import method_name
from pipeline.reporting.statistics import crossing


def labels(a: Analysis) -> list[Block]:
    """Say how many labels each method needs for some accuracies."""
    best = a.best(a.grid)
    needed = _needed(sorted(best, key=lambda s: a.methods.index(s.method)))
    if not needed:
        return []
    number = Column("Labeled images", lambda s: s.first.num_labeled, "count")
    table, accuracy = tables.means(a, best, number), tables.ACCURACY_NAME
    title = f"Test top-1 over labeled images, each method {words.choice_of_settings(a)}"
    chart = Chart("labels", title, table, a.methods).over(number.name, accuracy, scale=LOG)
    return [chart, needed]


def _needed(by_method: Sequence[Setting]) -> Table:
    """How many labels each method needs for some accuracies, read off the measured means."""
    groups = (list(found) for _, found in groupby(by_method, key=lambda s: s.method))
    curves = [found for found in groups if len(found) > 1]
    means = [s.mean().mean for found in curves for s in found]
    step = max(0.01, round((max(means) - min(means)) / 6, 2)) if means else 1.0
    first = round(min(means, default=0.0) / step) + 1
    targets = [i * step for i in range(first, first + 8) if i * step <= max(means, default=-1.0)]

    def at(target: float) -> Column:
        return Column(f"{percent(target)}%", lambda curve: _needed_by(curve, target), "count")

    return Table(
        "Labeled images needed for a test accuracy, interpolated between the measured means on a "
        "logarithmic scale. The interval is where the ends of the 95% intervals cross it. Nothing "
        "is said beyond the largest number of labels that was measured.",
        [Column("Method", lambda curve: method_name(curve[0].method)), *map(at, targets)],
        curves if targets else [],
    )


def _needed_by(curve: Sequence[Setting], target: float) -> Interval:
    """Return a number of labels; what was not measured is said to lie outside."""
    x, spreads = [float(s.first.num_labeled) for s in curve], [s.mean() for s in curve]
    value, low, high = (
        crossing(x, heights, target)
        for heights in (
            [s.mean for s in spreads],
            [s.mean if s.high is None else s.high for s in spreads],
            [s.mean if s.low is None else s.low for s in spreads],
        )
    )

    def bounded(number: float) -> str:
        if number > x[-1]:
            return f"> {count(x[-1])}"
        return f"< {count(x[0])}" if number < x[0] else count(number)

    if x[0] <= value <= x[-1]:
        return Interval(value, note=f"[{bounded(low)}, {bounded(high)}]" if low != high else "")
    return Interval(None, note=bounded(value))
