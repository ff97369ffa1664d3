"""The charts: Vega-Lite specifications on named tables, which a page fills in."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from pipeline.reporting.compare import method_name

# Each has a contrast of at least 3 to white and to the dark page alike.
COLORS = (
    *("#7c8594", "#c8640f", "#4a79e8", "#2f9142", "#a35bc4", "#0f8c97", "#cf4468", "#97780f"),
    *("#6a6fe0", "#698c33", "#b8599a", "#a8643f"),
)
_ACCENT, _GRAY = COLORS[2], "#808790"
_LABEL = {
    "percent": "format(100 * datum.value, '.1~f')",
    "points": "format(100 * datum.value, '+.1~f')",
    "seconds": "datum.value < 120 ? datum.value + ' s' : format(datum.value / 60, '.3~g') + ' min'",
}
_TIP = {"percent": ".1%", "points": "+.1%", "seconds": ",.0f", "count": ",.0f", "loss": ".3f"}
_UNIT = {"percent": " (%)", "points": " (points)"}
_CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelLimit": 260, "titleFontWeight": 500, "gridOpacity": 0.6, "domain": False},
    "legend": {"orient": "top", "title": None, "labelLimit": 260, "columns": 5, "symbolOpacity": 1},
}
_OF_MEAN = {"Setting": "", "Labels": "", "Test top-1": "percent", "Seeds": ""}
Spec = dict[str, Any]  # of Vega-Lite
Kinds = Mapping[str, str]  # of columns
Colors = Mapping[str, str]  # of methods, by their names


def color(methods: Sequence[str]) -> Colors:
    """Return each method's color, by its name."""
    return {method_name(m): COLORS[i % len(COLORS)] for i, m in enumerate(methods)}


def _data(name: str, *, labels: bool = False, methods: bool = True) -> Any:
    """Return a chart on a table, without hidden methods; of one label fraction, if asked."""
    chart = alt.Chart(alt.NamedData(name=name))
    if methods:
        chart = chart.transform_filter("indexof(hidden, datum.Method) < 0")
    return chart.transform_filter("!labels || datum.Labels == labels") if labels else chart


def _layered(*layers: Any, colors: Colors | None = None, height: Any = 240) -> Spec:
    """Return layers as one specification, with what the page sets: hidden methods, and labels."""
    params = [alt.param(name="hidden", value=[]), alt.param(name="labels", value="")]
    if colors is not None:
        scale = alt.Scale(domain=list(colors), range=list(colors.values()))
        by_method = alt.Color(field="Method", type="nominal", scale=scale)
        bare = (layer.encoding.color is alt.Undefined for layer in layers)
        layers = tuple(
            layer.encode(color=by_method) if is_bare else layer
            for layer, is_bare in zip(layers, bare, strict=True)
        )
    chart = alt.layer(*layers).properties(width="container", height=height).add_params(*params)
    return chart.to_dict() | {"config": _CONFIG}


def _axis(of: Any, field: str, kind: str = "", **scale: Any) -> Any:
    expr: dict[str, Any] = {"labelExpr": _LABEL[kind]} if kind in _LABEL else {}
    axis = alt.Axis(labelOverlap=True, tickCount=8 if of is alt.X else 5, **expr)
    title, shape = (
        f"{field}{_UNIT.get(kind, '')}",
        alt.Scale(**(scale if "type" in scale else {"zero": False} | scale)),
    )
    return of(field=field, type="quantitative", title=title, axis=axis, scale=shape)


def _row(field: str) -> Any:
    return alt.Y(field=field, type="nominal", sort=None, title=None)


def _tips(kinds: Kinds) -> list[Any]:
    return [
        alt.Tooltip(field=name, type="quantitative", format=_TIP[kind])
        if kind in _TIP
        else alt.Tooltip(field=name, type="nominal")
        for name, kind in kinds.items()
    ]


def _range(base: Any, axis: str, field: str) -> Any:
    """Return a chart of intervals, where there are some, along an axis."""
    of = {"x": (alt.X, alt.X2), "y": (alt.Y, alt.Y2)}[axis]
    low, high = of[0](field=f"{field} low", type="quantitative"), of[1](field=f"{field} high")
    known = base.transform_filter(f"isValid(datum['{field} low'])")
    return known.encode(**{axis: low, f"{axis}2": high})


def _means(
    base: Any, field: str, kind: str, across: Any, tips: Kinds, axis: str = "x"
) -> list[Any]:
    """Return intervals and, on them, dots; across them is another axis."""
    other = "y" if axis == "x" else "x"
    along = _axis(alt.X if axis == "x" else alt.Y, field, kind)
    rule = _range(base, axis, field).mark_rule(strokeWidth=2).encode(**{other: across})
    dot = base.mark_point(filled=True, size=80, opacity=1)
    return [rule, dot.encode(**{axis: along, other: across, "tooltip": _tips(tips)})]


def ranking(colors: Colors, value: str) -> Spec:
    """Means with intervals, one row per setting, and the seeds as ticks; data: settings, seeds."""
    row = _row("Setting")
    tips = {"Run": "", value: "percent", "Seed": "", "Cell id": "", "Folders": "", "MLflow run": ""}
    ticks = _data("seeds", labels=True).mark_tick(size=12, thickness=2, opacity=0.65)
    ticks = ticks.encode(x=_axis(alt.X, value, "percent"), y=row, tooltip=_tips(tips))
    rule, dot = _means(_data("settings", labels=True), value, "percent", row, _OF_MEAN)
    return _layered(rule, ticks, dot, colors=colors, height=alt.Step(24))


def forest(colors: Colors, value: str) -> Spec:
    """Differences with intervals, one row each, and a line at zero; data: differences."""
    tips = {"Setting": "", "Compared with": "", value: "points", "Result": ""}
    base = _data("differences", labels=True)
    zero = base.transform_calculate(zero="0").mark_rule(strokeDash=[4, 3], strokeWidth=1)
    zero = zero.encode(x=alt.X(field="zero", type="quantitative"), color=alt.value(_GRAY))
    means = _means(base, value, "points", _row("Compared with"), tips)
    return _layered(*means, zero, colors=colors, height=alt.Step(26))


def pairs(value: str, order: Sequence[str]) -> Spec:
    """All differences as a heat map, row minus column, both in an order; data: pairs."""
    low, high = COLORS[1], COLORS[2]
    scale = alt.Scale(domainMid=0, range=[low, f"{_GRAY}20", high], interpolate="rgb")
    fill = alt.Color(field=value, type="quantitative", scale=scale, legend=None)
    angle = alt.Axis(labelAngle=-40)
    x = alt.X(
        field="Compared with", type="nominal", sort=list(order), axis=angle, title="compared with"
    )
    y = alt.Y(field="Setting", type="nominal", sort=list(order), title=None)
    tips = _tips({"Setting": "", "Compared with": "", value: "points", "Result": ""})
    base = _data("pairs", labels=True, methods=False).encode(x=x, y=y, tooltip=tips)
    number = f"format(100 * datum['{value}'], '+.1f') + (datum.Significant ? ' *' : '')"
    words = base.transform_calculate(shown=number).mark_text(fontSize=10)
    rect = base.mark_rect(opacity=0.75).encode(color=fill)
    return _layered(rect, words.encode(text=alt.Text(field="shown")), height=alt.Step(24))


def over(colors: Colors, x: str, value: str, *, log: bool = False) -> Spec:
    """Means with intervals over a number, a line per method; data: means.

    Settings without that number, in data set ``without``, are lines across.
    """
    base, tips = _data("means", labels=not log), _OF_MEAN
    scale: dict[str, Any] = {"type": "log", "nice": False} if log else {}
    along = _axis(alt.X, x, padding=20, **scale)
    y = _axis(alt.Y, value, "percent")
    layers = [base.mark_line(strokeWidth=2).encode(x=along, y=y)]
    layers += _means(base, value, "percent", along, tips, axis="y")
    if not log:
        across = _data("without", labels=True).mark_rule(strokeDash=[5, 4], strokeWidth=1.5)
        layers.append(across.encode(y=y, tooltip=_tips(tips)))
    return _layered(*layers, colors=colors)


def curves(colors: Colors, value: str, kind: str) -> Spec:
    """Means over steps, and the range of the seeds behind them; data: curves."""
    base, x, y = _data("curves", labels=True), _axis(alt.X, "Step"), _axis(alt.Y, value, kind)
    band = _range(base, "y", value).mark_area(opacity=0.18).encode(x=x)
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=18))
    tips = _tips({"Setting": "", "Step": "count", value: kind})
    return _layered(band, line.encode(x=x, y=y, tooltip=tips), colors=colors)


def terms(value: str) -> Spec:
    """Lines over steps, one per term of the loss; data: losses."""
    scale = alt.Scale(range=[_GRAY, *COLORS[1:]])
    tint = alt.Color(field="Term", type="nominal", scale=scale, sort=None)
    line = _data("losses", methods=False).mark_line(point=alt.OverlayMarkDef(size=14))
    tips = _tips({"Term": "", "Step": "count", value: "loss"})
    x, y = _axis(alt.X, "Step"), _axis(alt.Y, value)
    return _layered(line.encode(x=x, y=y, color=tint, tooltip=tips))


def shades(data: str, x: str, y: str, value: str, tips: Kinds, *, text: str = "") -> Spec:
    """A matrix whose cells are the darker the larger their value, perhaps with a number in each."""
    axis = alt.Axis(labelAngle=-40, labelOverlap=not text)
    across = alt.X(field=x, type="ordinal", sort=None, axis=axis)
    down = alt.Y(field=y, type="ordinal", sort=None)
    scale = alt.Scale(domainMin=0, range=[0, 0.85])
    shade = alt.FillOpacity(field=value, type="quantitative", scale=scale, legend=None)
    base = _data(data, methods=False).encode(x=across, y=down, tooltip=_tips(tips))
    layers = [base.mark_rect(fill=_ACCENT).encode(fillOpacity=shade)]
    if text:
        shown = base.transform_filter(f"datum['{text}'] > 0").mark_text(fontSize=10)
        layers.append(shown.encode(text=alt.Text(field=text, type="quantitative")))
    return _layered(*layers, height=alt.Step(22))


def per_class(value: str) -> Spec:
    """Accuracies of classes with intervals; data: classes."""
    tips = {"Class": "", value: "percent", "Test images": "count"}
    means = _means(_data("classes", methods=False), value, "percent", _row("Class"), tips)
    accent = alt.value(_ACCENT)
    return _layered(*(each.encode(color=accent) for each in means), height=alt.Step(22))


def reliability() -> Spec:
    """Accuracy over confidence, beside the diagonal; data: bins."""
    base = _data("bins", methods=False)
    x, y = (
        _axis(of, name, "percent", domain=[0, 1])
        for of, name in ((alt.X, "Confidence"), (alt.Y, "Accuracy"))
    )
    ends = alt.Chart(alt.InlineData(values=[{"at": 0}, {"at": 1}]))
    ideal = ends.mark_line(color=_GRAY, strokeDash=[4, 3]).encode(x="at:Q", y="at:Q")
    tips = _tips({"Images": "count", "Confidence": "percent", "Accuracy": "percent"})
    line = base.mark_line(color=_ACCENT, strokeWidth=1).encode(x=x, y=y)
    size = alt.Size(field="Images", type="quantitative", legend=None)
    dots = base.mark_circle(color=_ACCENT, opacity=1).encode(x=x, y=y, size=size, tooltip=tips)
    return _layered(ideal, line, dots)


def coverage() -> Spec:
    """Accuracy of the most confident images over their share; data: coverage."""
    base = _data("coverage", methods=False)
    x, y = (_axis(of, n, "percent") for of, n in ((alt.X, "Coverage"), (alt.Y, "Accuracy")))
    tips = _tips({"Confidence": "percent", "Coverage": "percent", "Accuracy": "percent"})
    band = _range(base, "y", "Accuracy").mark_area(color=_ACCENT, opacity=0.18).encode(x=x)
    return _layered(band, base.mark_line(color=_ACCENT, point=True).encode(x=x, y=y, tooltip=tips))


def price(colors: Colors, value: str) -> Spec:
    """Accuracy over training time, one point per setting; data: settings."""
    x = _axis(alt.X, "Time per run", "seconds", type="log", nice=False, padding=25)
    base, tips = _data("settings", labels=True), _OF_MEAN | {"Time per run": "seconds"}
    return _layered(*_means(base, value, "percent", x, tips, axis="y"), colors=colors)
