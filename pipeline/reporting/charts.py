"""The charts: Vega-Lite specifications, whose data sets are tables that a page fills in.

A column's kind says how axes and tooltips print it, as it does in the table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from pipeline.reporting.blocks import Chart, Column, Table
from pipeline.reporting.compare import TOP1, method_name

# Each has a contrast of at least 3 to white and to the dark page alike.
COLORS = (
    *("#7c8594", "#c8640f", "#4a79e8", "#2f9142", "#a35bc4", "#0f8c97", "#cf4468", "#97780f"),
    *("#6a6fe0", "#698c33", "#b8599a", "#a8643f"),
)
_ACCENT, _GRAY = COLORS[2], "#808790"
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
_UNTOLD = ("Method", "Significant")  # other columns of a tooltip say so, too
_CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelLimit": 260, "titleFontWeight": 500, "gridOpacity": 0.6, "domain": False},
    "legend": {"orient": "top", "title": None, "labelLimit": 260, "columns": 5, "symbolOpacity": 1},
}
# What colors marks: a method, a term of the loss, nothing.
BY_TERM = alt.Color(
    field="Term", type="nominal", sort=None, scale=alt.Scale(range=[_GRAY, *COLORS[1:]])
)
PLAIN = alt.value(_ACCENT)


def colors(methods: Sequence[str]) -> dict[str, str]:
    """Return each method's color, by its name."""
    return {method_name(m): COLORS[i % len(COLORS)] for i, m in enumerate(methods)}


def by_method(methods: Sequence[str]) -> Any:
    """Return what gives each method its color."""
    found = colors(methods)
    scale = alt.Scale(domain=list(found), range=list(found.values()))
    return alt.Color(field="Method", type="nominal", scale=scale)


def rows(name: str, table: Table, row: str, value: str, color: Any, **seeds: Table) -> Chart:
    """Draw means with intervals, a row for each, perhaps with the seeds as ticks.

    Differences get a line at zero.
    """
    down = alt.Y(field=row, type="nominal", sort=None, title=None)
    base = _data(name, table, color)
    layers = _means(base, table, value, down)
    for other, runs in seeds.items():
        ticks = _data(other, runs, color).mark_tick(size=12, thickness=2, opacity=0.65)
        layers.insert(1, ticks.encode(x=_axis(alt.X, runs, value), y=down))
    if table.kind(value) == "points":
        zero = base.transform_calculate(zero="0").mark_rule(strokeDash=[4, 3], strokeWidth=1)
        x = alt.X(field="zero", type="quantitative")
        layers.append(zero.encode(x=x, color=alt.value(_GRAY)))
    return _chart({name: table} | seeds, layers, height=alt.Step(24))


def over(name: str, table: Table, x: str, color: Any, *, line: bool = True, **scale: Any) -> Chart:
    """Draw accuracies with intervals over a number, perhaps joined by lines.

    Settings that do not have the number are lines across.
    """
    # Over their numbers of images, all label fractions are shown.
    base = _data(name, table, color, fractions=x != "Labeled images")
    along, up = _axis(alt.X, table, x, padding=20, **scale), _axis(alt.Y, table, TOP1)
    known = base.transform_filter(f"isValid(datum['{x}'])")
    layers = [known.mark_line(strokeWidth=2).encode(x=along, y=up)] if line else []
    layers += _means(known, table, TOP1, along, "y")
    if any(record[x] is None for record in table.records()):
        across = base.transform_filter(f"!isValid(datum['{x}'])")
        layers.append(across.mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=up))
    return _chart({name: table}, layers)


def lines(name: str, table: Table, x: str, y: str, color: Any) -> Chart:
    """Draw lines, and the intervals around them as bands."""
    base, along = _data(name, table, color), _axis(alt.X, table, x)
    band = _range(base, "y", y).mark_area(opacity=0.18).encode(x=along)
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=18))
    return _chart({name: table}, [band, line.encode(x=along, y=_axis(alt.Y, table, y))])


def reliability(bins: Table) -> Chart:
    """Draw accuracy over confidence, beside the diagonal."""
    base = _data("bins", bins, PLAIN)
    x, y = (
        _axis(of, bins, name, domain=[0, 1])
        for of, name in ((alt.X, "Confidence"), (alt.Y, "Accuracy"))
    )
    ends = alt.Chart(alt.sequence(0, 2, as_="at"))  # no named data: the page fills those in
    ideal = ends.mark_line(color=_GRAY, strokeDash=[4, 3]).encode(x="at:Q", y="at:Q")
    size = alt.Size(field="Images", type="quantitative", legend=None)
    dots = base.mark_circle(opacity=1).encode(x=x, y=y, size=size)
    return _chart({"bins": bins}, [ideal, base.mark_line(strokeWidth=1).encode(x=x, y=y), dots])


def pairs(differences: Table, order: Sequence[str]) -> Chart:
    """Draw all differences as a heat map, row minus column, both in an order."""
    scale = alt.Scale(domainMid=0, range=[COLORS[1], f"{_GRAY}20", COLORS[2]], interpolate="rgb")
    fill = alt.Color(field="Difference", type="quantitative", scale=scale, legend=None)
    sorted_by: dict[str, Any] = {"type": "nominal", "sort": list(order)}
    angle = alt.Axis(labelAngle=-40)
    x = alt.X(field="Compared with", title="compared with", axis=angle, **sorted_by)
    y = alt.Y(field="Setting", title=None, **sorted_by)
    base = _data("pairs", differences, methods=False).encode(x=x, y=y)
    number = "format(100 * datum.Difference, '+.1f') + (datum.Significant ? ' *' : '')"
    words = base.transform_calculate(shown=number).mark_text(fontSize=10)
    layers = [
        base.mark_rect(opacity=0.75).encode(color=fill),
        words.encode(text=alt.Text(field="shown")),
    ]
    return _chart({"pairs": differences}, layers, height=alt.Step(24))


def shades(name: str, table: Table, x: str, y: str, *, text: str = "") -> Chart:
    """Draw a matrix, the darker the larger the share, perhaps with a number in each cell."""
    axis = alt.Axis(labelAngle=-40, labelOverlap=not text)
    across = alt.X(field=x, type="ordinal", sort=None, axis=axis)
    down = alt.Y(field=y, type="ordinal", sort=None)
    scale = alt.Scale(domainMin=0, range=[0, 0.85])
    shade = alt.FillOpacity(field="Share", type="quantitative", scale=scale, legend=None)
    base = _data(name, table).encode(x=across, y=down)
    layers = [base.mark_rect(fill=_ACCENT).encode(fillOpacity=shade)]
    if text:
        shown = base.transform_filter(f"datum['{text}'] > 0").mark_text(fontSize=10)
        layers.append(shown.encode(text=alt.Text(field=text, type="quantitative")))
    return _chart({name: table}, layers, height=alt.Step(22))


def _data(
    name: str,
    table: Table,
    color: Any = alt.Undefined,
    *,
    methods: bool = True,
    fractions: bool = True,
) -> Any:
    """Return a chart on a table, without hidden methods and of one label fraction."""
    columns = {c.name for c in table.columns}
    tips = [_tip(c) for c in table.columns if c.name not in _UNTOLD]
    chart = alt.Chart(alt.NamedData(name=name)).encode(tooltip=tips, color=color)
    if methods and "Method" in columns:
        chart = chart.transform_filter("indexof(hidden, datum.Method) < 0")
    if fractions and "Labels" in columns:
        chart = chart.transform_filter("!labels || datum.Labels == labels")
    return chart


def _tip(c: Column) -> Any:
    if c.kind in _TIP:
        return alt.Tooltip(field=c.name, type="quantitative", format=_TIP[c.kind])
    return alt.Tooltip(field=c.name, type="nominal")


def _chart(tables: Mapping[str, Table], layers: Sequence[Any], *, height: Any = 240) -> Chart:
    """Return layers as one chart, with what the page sets: hidden methods, and labels."""
    params = [alt.param(name="hidden", value=[]), alt.param(name="labels", value="")]
    chart = alt.layer(*layers).properties(width="container", height=height).add_params(*params)
    return Chart(chart.to_dict() | {"config": _CONFIG}, tables)


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


def _means(base: Any, table: Table, field: str, across: Any, axis: str = "x") -> list[Any]:
    """Return intervals along an axis and, on them, dots; the other axis is given."""
    along = _axis(alt.X if axis == "x" else alt.Y, table, field)
    other = {"x": "y", "y": "x"}[axis]
    rule = _range(base, axis, field).mark_rule(strokeWidth=2).encode(**{other: across})
    dot = base.mark_point(filled=True, size=80, opacity=1)
    return [rule, dot.encode(**{axis: along, other: across})]
