"""The charts: Vega-Lite specifications, whose data sets are tables that a page fills in.

A column's kind says how axes and tooltips print it, as it does in the table. Where a table names
methods, they have the same color in all charts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from pipeline.reporting.blocks import Column, Figure, Table
from pipeline.reporting.runs import method_name

# Each has a contrast of at least 3 to white and to the dark page alike.
COLORS = (
    *("#7c8594", "#c8640f", "#4a79e8", "#2f9142", "#a35bc4", "#0f8c97", "#cf4468", "#97780f"),
    *("#6a6fe0", "#698c33", "#b8599a", "#a8643f"),
)
_ACCENT, _GRAY = COLORS[2], "#808790"
LOG: dict[str, Any] = {"type": "log", "nice": False}  # an axis
# How a matrix is shaded: by a share, or by a difference from red to blue.
SHARES: dict[str, Any] = {"domainMin": 0, "range": [f"{_ACCENT}00", f"{_ACCENT}d9"]}
DIFFERENCES: dict[str, Any] = {
    "domainMid": 0,
    "range": [f"{COLORS[1]}bf", f"{_GRAY}18", f"{_ACCENT}bf"],
}
NO_TEXT = "''"  # of a matrix, as a Vega expression
_LABEL = {
    "percent": "format(100 * datum.value, '.1~f')",
    "points": "format(100 * datum.value, '+.1~f')",
    **dict.fromkeys(("loss", "number"), "format(datum.value, '.3~g')"),
    "seconds": "datum.value < 120 ? datum.value + ' s' : format(datum.value / 60, '.3~g') + ' min'",
}
_TIP = {
    **{"percent": ".1%", "points": "+.1%", "p": ".2~g", "number": ".3~g", "loss": ".3f"},
    **{"seconds": ",.0f", "count": ",.0f", "work": ".3~s"},
}
_UNIT = {"percent": " (%)", "points": " (points)"}
_FILTERS = {  # by what the page sets
    "Method": "indexof(hidden, datum.Method) < 0",
    "Labels": "!labels || datum.Labels == labels",
}
_CELL = 22  # pixels of a matrix; narrower ones have no room for text
_UNTOLD = ("Method", "Significant")  # other columns of a tooltip say so, too
_CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelLimit": 260, "titleFontWeight": 500, "gridOpacity": 0.6, "domain": False},
    "legend": {"orient": "top", "title": None, "labelLimit": 260, "columns": 5, "symbolOpacity": 1},
}


def colors(methods: Sequence[str]) -> dict[str, str]:
    """Return each method's color, by its name."""
    return {method_name(m): COLORS[i % len(COLORS)] for i, m in enumerate(methods)}


@dataclass(frozen=True)
class Chart:
    """A chart of a table, which its methods draw."""

    name: str  # of the file in plots/
    title: str
    table: Table
    methods: Sequence[str] = ()  # all that have a color; none: one color
    beside: bool = False  # whether the page shows the table anyway

    def rows(self, value: str, by: str = "Setting", seeds: Table | None = None) -> Figure:
        """Draw means with intervals, a row for each, perhaps with the seeds as ticks.

        Differences get a line at zero.
        """
        down = alt.Y(field=by, type="nominal", sort=None, title=None)
        base, tables = self._data(), {"rows": self.table}
        layers = self._means(base, value, down)
        if seeds is not None:
            tables["seeds"] = seeds
            ticks = self._data(seeds, "seeds").mark_tick(size=12, thickness=2, opacity=0.65)
            layers.insert(1, ticks.encode(x=_axis(alt.X, seeds, value), y=down))
        if self.table.kind(value) == "points":
            zero = base.transform_calculate(zero="0").mark_rule(strokeDash=[4, 3], strokeWidth=1)
            x = alt.X(field="zero", type="quantitative")
            layers.append(zero.encode(x=x, color=alt.value(_GRAY)))
        return self._figure(layers, tables, height=alt.Step(24), wide=bool(self.methods))

    def over(
        self, x: str, y: str, *, scale: Mapping[str, Any] | None = None, line: bool = True
    ) -> Figure:
        """Draw means with intervals over a number, perhaps joined by lines.

        Settings that do not have the number are lines across.
        """
        # Over their numbers of images, all label fractions are shown.
        base = self._data(unfiltered="Labels" if x == "Labeled images" else "")
        along = _axis(alt.X, self.table, x, padding=20, **scale or {})
        up = _axis(alt.Y, self.table, y)
        known = base.transform_filter(f"isValid(datum['{x}'])")
        layers = [known.mark_line(strokeWidth=2).encode(x=along, y=up)] if line else []
        layers += self._means(known, y, along, "y")
        if any(record[x] is None for record in self.table.records()):
            across = base.transform_filter(f"!isValid(datum['{x}'])")
            layers.append(across.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=up))
        return self._figure(layers, wide=True)

    def curves(self, x: str, y: str) -> Figure:
        """Draw lines, and the intervals around them as bands."""
        base, along = self._data(), _axis(alt.X, self.table, x)
        band = _range(base, "y", y).mark_area(opacity=0.18).encode(x=along)
        line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=18))
        return self._figure([band, line.encode(x=along, y=_axis(alt.Y, self.table, y))])

    def matrix(
        self, cells: tuple[str, str, str], scale: Mapping[str, Any], text: str, sort: Any = None
    ) -> Figure:
        """Draw a matrix.

        Args:
            cells: The columns that stand at its left, below it, and that shade its cells.
            scale: How they are shaded.
            text: What stands in a cell: a Vega expression.
            sort: The order of both sides; None: that of the table.
        """
        down, across, shade = cells
        angle = alt.Axis(labelAngle=-40, labelOverlap=text == NO_TEXT)
        x = alt.X(field=across, type="nominal", sort=sort, axis=angle)
        y = alt.Y(field=down, type="nominal", sort=sort)
        base = self._data(unfiltered="Method").encode(x=x, y=y)
        fill = alt.Color(field=shade, type="quantitative", scale=alt.Scale(**scale), legend=None)
        columns = len({record[across] for record in self.table.records()})
        size = alt.ExprRef(f"width < {_CELL * columns} ? 0 : 10")
        words = base.transform_calculate(shown=text).mark_text(fontSize=size)
        shown = words.encode(text=alt.Text(field="shown"), color=alt.value("black"))
        layers = [base.mark_rect().encode(color=fill), shown]
        return self._figure(layers, height=alt.Step(24), wide=sort is not None)

    def _data(self, table: Table | None = None, name: str = "rows", unfiltered: str = "") -> Any:
        """Return a chart on a table, without hidden methods and of one label fraction."""
        columns = (table or self.table).columns
        tips = [_tip(c) for c in columns if c.name not in _UNTOLD]
        chart = alt.Chart(alt.NamedData(name=name)).encode(tooltip=tips)
        for column, test in _FILTERS.items():
            if column in {c.name for c in columns} and column != unfiltered:
                chart = chart.transform_filter(test)
        found = colors(self.methods)
        if not found:
            return chart.encode(color=alt.value(_ACCENT))
        scale = alt.Scale(domain=list(found), range=list(found.values()))
        return chart.encode(color=alt.Color(field="Method", type="nominal", scale=scale))

    def _means(self, base: Any, field: str, across: Any, axis: str = "x") -> list[Any]:
        """Return intervals along an axis and, on them, dots; the other axis is given."""
        along = _axis(alt.X if axis == "x" else alt.Y, self.table, field)
        other = {"x": "y", "y": "x"}[axis]
        rule = _range(base, axis, field).mark_rule(strokeWidth=2).encode(**{other: across})
        dot = base.mark_point(filled=True, size=80, opacity=1)
        return [rule, dot.encode(**{axis: along, other: across})]

    def _figure(
        self,
        layers: Sequence[Any],
        tables: Mapping[str, Table] | None = None,
        *,
        height: Any = 240,
        wide: bool = False,
    ) -> Figure:
        """Return layers as one chart, with what the page sets: hidden methods, and labels."""
        params = [alt.param(name="hidden", value=[]), alt.param(name="labels", value="")]
        chart = alt.layer(*layers).properties(width="container", height=height).add_params(*params)
        spec, shown = dict(chart.to_dict()) | {"config": _CONFIG}, tables or {"rows": self.table}
        return Figure(self.name, self.title, spec, shown, wide, self.beside)


def _tip(c: Column) -> Any:
    if c.kind in _TIP:
        return alt.Tooltip(field=c.name, type="quantitative", format=_TIP[c.kind])
    return alt.Tooltip(field=c.name, type="nominal")


def _axis(of: Any, table: Table, field: str, **scale: Any) -> Any:
    kind = table.kind(field)
    expr: dict[str, Any] = {"labelExpr": _LABEL[kind]} if kind in _LABEL else {}
    axis = alt.Axis(labelOverlap=True, tickCount=8 if of is alt.X else 5, **expr)
    shape = alt.Scale(**(scale if "type" in scale else {"zero": False} | scale))
    title = f"{field}{_UNIT.get(kind, '')}"
    return of(field=field, type="quantitative", title=title, axis=axis, scale=shape)


def _range(base: Any, axis: str, field: str) -> Any:
    """Return a chart of intervals, where there are some, along an axis."""
    low, high = f"{field} low", f"{field} high"
    of, of_second = (alt.X, alt.X2) if axis == "x" else (alt.Y, alt.Y2)
    ends = {axis: of(field=low, type="quantitative"), f"{axis}2": of_second(field=high)}
    return base.transform_filter(f"isValid(datum['{low}'])").encode(**ends)
