"""What a page consists of. Numbers stay numbers here; a template prints them by their kind."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from pipeline.reporting.statistics import Spread
from semimae.evaluation.metrics import Estimate

# By name, so that no reader of the code takes them for hyphens.
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


class Link(NamedTuple):
    """Words that lead somewhere."""

    text: str
    href: str


class Interval(NamedTuple):
    """A number with its interval; without one, what stands in its place."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


class Column(NamedTuple):
    """A column of any table: its heading, what it takes of a row, and how that is printed."""

    name: str
    get: Callable[[Any], Any]  # a text, Link, number, Spread, Estimate or Interval, or None
    kind: str = "text"  # a key of FORMATS

    @property
    def is_numeric(self) -> bool:
        """Whether its entries stand to the right."""
        return self.kind not in ("text", "words", "key")


@dataclass(frozen=True)
class Table:
    """A table, folded away if it is only the evidence behind something else."""

    type: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    folded: bool = False
    strong: Any = None  # the row to stress
    anchor: Callable[[Any], str] | None = None  # of a row, for links to it

    def of(self, name: str, row: Any) -> str:
        """Return what a row has in a column, which the page can be filtered by; "": nothing."""
        return next((str(c.get(row)) for c in self.columns if c.name == name), "")

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as numbers and words, as a chart reads them."""
        return [
            {key: value for c in self.columns for key, value in _flat(c, row)} for row in self.rows
        ]


@dataclass(frozen=True)
class Text:
    """A paragraph. ``tone`` is "" or "note" (something the reader must not miss) or "lead"."""

    type: ClassVar[str] = "text"
    text: str
    tone: str = ""
    link: Link | None = None  # follows the text


@dataclass(frozen=True)
class Facts:
    """The few numbers that answer the first questions."""

    type: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str, Any, str]]  # label, kind, value, small print


@dataclass(frozen=True)
class Figure:
    """A chart, in words too, with the tables that it draws."""

    type: ClassVar[str] = "figure"
    name: str  # of the file in plots/
    title: str
    alt: str
    chart: dict[str, Any]  # Vega-Lite, on data sets that are named as the tables
    tables: Mapping[str, Table]
    wide: bool = False
    beside: bool = False  # whether the page shows the table anyway


@dataclass(frozen=True)
class Picture:
    """An image with its words."""

    png: str  # base64
    title: str
    detail: str = ""
    classes: tuple[str, ...] = ()  # true, predicted


@dataclass(frozen=True)
class Pictures:
    """Images side by side, that can be filtered by class."""

    type: ClassVar[str] = "pictures"
    name: str  # of the file in plots/
    title: str
    pictures: Sequence[Picture]
    classes: Sequence[str] = ()
    wide: bool = False  # each is a row of its own


Block = Table | Text | Facts | Figure | Pictures


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; without blocks it is left out."""

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def percent(value: float) -> str:
    """Return a proportion in percent with one decimal, without the sign."""
    return f"{100 * value:.1f}".replace("-", MINUS)


def points(value: float) -> str:
    """Return a difference of proportions in signed percentage points."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """Return a p-value in two significant digits, in three below 0.1."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(number: float) -> str:
    """Return a whole number."""
    return f"{number:,.0f}"


def work(flops: float) -> str:
    """Return a number of floating-point operations for people."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    step = min(int(math.log10(max(flops, 1))) // 3, len(prefixes) - 1)
    return f"{flops / 1000**step:.3g}\N{NO-BREAK SPACE}{prefixes[step]}FLOP"


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "words": str,  # a sentence, which may be broken
    "percent": percent,
    "points": points,
    "p": p_value,
    "count": count,
    "work": work,
    "seconds": duration,
    "number": lambda value: f"{value:.3g}",
    "loss": lambda value: f"{value:.3f}",
}


class Shown(NamedTuple):
    """A table's entry as a template prints it."""

    text: str
    detail: str = ""
    href: str = ""


def show(value: Any, kind: str) -> Shown:
    """Return what a value looks like."""
    if isinstance(value, Link):
        return Shown(value.text, href=value.href)
    found = _interval(value)
    if found.value is None:
        return Shown(found.note or NONE)
    text = FORMATS[kind]
    if found.low is None or found.high is None:
        return Shown(text(found.value), found.note)
    return Shown(text(found.value), f"[{text(found.low)}, {text(found.high)}]")


def _interval(value: Any) -> Interval:
    if isinstance(value, Spread):
        note = "" if value.low is not None else "one seed" if value.n == 1 else "same on all seeds"
        return Interval(value.mean, value.low, value.high, note)
    if isinstance(value, Estimate):
        return Interval(value.value, value.low, value.high)
    return value if isinstance(value, Interval) else Interval(value)


def _flat(column: Column, row: Any) -> list[tuple[str, Any]]:
    """Return an entry as named values: a number with an interval is three."""
    value = column.get(row)
    if isinstance(value, Link):
        return [(column.name, value.text)]
    if not isinstance(value, Spread | Estimate | Interval):
        return [(column.name, _short(value))]
    found = _interval(value)
    ends = (("", found.value), (" low", found.low), (" high", found.high))
    return [(f"{column.name}{end}", _short(each)) for end, each in ends]


def _short(value: Any) -> Any:
    """Return a number with as many digits as a chart can show."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
