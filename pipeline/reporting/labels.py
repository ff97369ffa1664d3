"""How many labels do I need? Read off between the points that were measured."""

from typing import Any

from pipeline.reporting import charts, tables, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Column, Figure, Interval, Section, Table, count
from pipeline.reporting.compare import method_name, over_seeds
from pipeline.reporting.statistics import crossing
from pipeline.reporting.tables import TOP1


def labels_section(a: Analysis) -> Section:
    """Say how many labels each method needs for some accuracies."""
    needed = _needed_table(a)
    title = "How many labels do I need?"
    if not needed.rows:
        return Section("labels", title)
    rows = [line for f in a.fractions() for line in tables.lines(a.grid, a.best(a.grid, f))]
    number = Column("Labeled images", lambda line: line.runs[0].num_labeled, "count")
    figure = Figure(
        "labels",
        f"Test top-1 over labeled images, each method {words.choice_of_settings(a)}",
        "Test accuracy over the number of labeled images, one line per method.",
        charts.over(charts.color(a.methods), "Labeled images", TOP1, log=True),
        {"means": tables.means(a, rows, number)},
        wide=True,
    )
    return Section("labels", title, [figure, needed])


def _needed_table(a: Analysis) -> Table:
    """How many labels each method needs for some accuracies, read off the measured means."""
    by_method: dict[str, list[tables.Line]] = {}
    for fraction in a.fractions():
        for line in tables.lines(a.grid, a.best(a.grid, fraction)):
            by_method.setdefault(line.setting.method, []).append(line)
    curves = {m: found for m, found in by_method.items() if len(found) > 1}
    means = [over_seeds(line.runs).mean for found in curves.values() for line in found]
    step = max(0.01, round((max(means) - min(means)) / 6, 2)) if means else 1.0
    first = round(min(means, default=0.0) / step) + 1
    targets = [i * step for i in range(first, first + 8) if i * step <= max(means, default=-1.0)]

    def get(method: str) -> Any:
        x = [float(line.runs[0].num_labeled) for line in curves[method]]
        spreads = [over_seeds(line.runs) for line in curves[method]]

        def needed(target: float) -> Interval:
            lower = [s.mean if s.low is None else s.low for s in spreads]
            upper = [s.mean if s.high is None else s.high for s in spreads]
            value = crossing(x, [s.mean for s in spreads], target)
            ends = crossing(x, upper, target), crossing(x, lower, target)
            return _within(value, *ends, smallest=x[0], largest=x[-1])

        return needed

    return Table(
        "Labeled images needed for a test accuracy, interpolated between the measured means on a "
        "logarithmic scale. The interval is where the ends of the 95% intervals cross it. Nothing "
        "is said beyond the largest number of labels that was measured.",
        [
            Column(TOP1, lambda target: target, "percent"),
            *(Column(method_name(m), get(m), "count") for m in curves),
        ],
        targets if curves else [],
    )


def _within(value: float, low: float, high: float, smallest: float, largest: float) -> Interval:
    """Return a number of labels; what was not measured is said to lie outside."""

    def bounded(number: float) -> str:
        if number > largest:
            return f"> {count(largest)}"
        return f"< {count(smallest)}" if number < smallest else count(number)

    if smallest <= value <= largest:
        return Interval(value, note=f"[{bounded(low)}, {bounded(high)}]" if low != high else "")
    return Interval(None, note=bounded(value))
