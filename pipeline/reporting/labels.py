"""How many labels do I need? Read off between the points that were measured."""

from pipeline.reporting import charts, tables, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Figure, Interval, Table
from pipeline.reporting.compare import method_name, over_seeds
from pipeline.reporting.formats import count, percent
from pipeline.reporting.statistics import crossing


def labels(a: Analysis) -> list[Block]:
    """Say how many labels each method needs for some accuracies."""
    best = [s for fraction in a.fractions() for s in a.best(a.grid, fraction)]
    needed = _needed(tables.lines(a.grid, best))
    if not needed:
        return []
    number = Column("Labeled images", lambda line: line.runs[0].num_labeled, "count")
    means = tables.means(a, tables.lines(a.grid, best), number)
    color = charts.by_method(a.methods)
    chart = charts.over("means", means, number.name, color, type="log", nice=False)
    title = f"Test top-1 over labeled images, each method {words.choice_of_settings(a)}"
    return [Figure("labels", title, chart, wide=True), needed]


def _needed(lines: list[tables.Line]) -> Table:
    """How many labels each method needs for some accuracies, read off the measured means."""
    by_method: dict[str, list[tables.Line]] = {}
    for line in lines:
        by_method.setdefault(line.setting.method, []).append(line)
    curves = [found for found in by_method.values() if len(found) > 1]
    means = [over_seeds(line.runs).mean for found in curves for line in found]
    step = max(0.01, round((max(means) - min(means)) / 6, 2)) if means else 1.0
    first = round(min(means, default=0.0) / step) + 1
    targets = [i * step for i in range(first, first + 8) if i * step <= max(means, default=-1.0)]

    def at(target: float) -> Column:
        return Column(f"{percent(target)}%", lambda curve: _needed_by(curve, target), "count")

    return Table(
        "Labeled images needed for a test accuracy, interpolated between the measured means on a "
        "logarithmic scale. The interval is where the ends of the 95% intervals cross it. Nothing "
        "is said beyond the largest number of labels that was measured.",
        [Column("Method", lambda curve: method_name(curve[0].setting.method)), *map(at, targets)],
        curves if targets else [],
    )


def _needed_by(curve: list[tables.Line], target: float) -> Interval:
    x = [float(line.runs[0].num_labeled) for line in curve]
    spreads = [over_seeds(line.runs) for line in curve]
    heights = (
        [s.mean for s in spreads],
        [s.mean if s.high is None else s.high for s in spreads],
        [s.mean if s.low is None else s.low for s in spreads],
    )
    return _within(x[0], x[-1], *(crossing(x, height, target) for height in heights))


def _within(smallest: float, largest: float, value: float, low: float, high: float) -> Interval:
    """Return a number of labels; what was not measured is said to lie outside."""

    def bounded(number: float) -> str:
        if number > largest:
            return f"> {count(largest)}"
        return f"< {count(smallest)}" if number < smallest else count(number)

    if smallest <= value <= largest:
        return Interval(value, note=f"[{bounded(low)}, {bounded(high)}]" if low != high else "")
    return Interval(None, note=bounded(value))
