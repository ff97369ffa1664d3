"""What a page consists of. Numbers stay numbers here; a template prints them by their kind."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

from pipeline.reporting.formats import FORMATS, NONE, limits
from pipeline.reporting.statistics import Spread
from semimae.evaluation.metrics import Estimate


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
    kind: str = "text"  # a key of FORMATS; "key": for charts and the page's script alone

    @property
    def is_numeric(self) -> bool:
        """Whether its entries stand to the right."""
        return self.kind not in ("text", "words", "key")


@dataclass(frozen=True, eq=False)
class Table:
    """A table, folded away if it is only the evidence behind something else."""

    type: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    folded: bool = False
    strong: Any = None  # the row to stress
    anchor: Callable[[Any], str] | None = None  # of a row, for links to it

    def __bool__(self) -> bool:
        return bool(self.rows)

    def kind(self, name: str) -> str:
        """Return the kind of a column."""
        return next(c.kind for c in self.columns if c.name == name)

    def of(self, name: str, row: Any) -> str:
        """Return what a row has in a column, which the page can be filtered by; "": nothing."""
        return next((str(c.get(row)) for c in self.columns if c.name == name), "")

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as numbers and words, as a chart reads them."""
        return [{k: v for c in self.columns for k, v in _flat(c, row)} for row in self.rows]


def table_of(
    caption: str, kinds: Mapping[str, str], rows: Sequence[Sequence[Any]], *, folded: bool = False
) -> Table:
    """Return a table of rows that hold their values in the order of the columns."""
    columns = [Column(name, itemgetter(i), kinds[name]) for i, name in enumerate(kinds)]
    return Table(caption, columns, rows, folded)


@dataclass(frozen=True)
class Text:
    """A paragraph, with the few numbers that it is about."""

    type: ClassVar[str] = "text"
    text: str
    tone: str = ""  # "note" (something the reader must not miss), "lead", "small" or "title"
    link: Link | None = None  # follows the text
    facts: Sequence[tuple[str, str, Any, str]] = ()  # label, kind, value, small print

    def __bool__(self) -> bool:
        return bool(self.text)


@dataclass(frozen=True, eq=False)
class Figure:
    """A specification in Vega-Lite, and the tables that are its data sets."""

    type: ClassVar[str] = "figure"
    name: str  # of the file in plots/
    title: str
    spec: dict[str, Any]
    tables: Mapping[str, Table]
    wide: bool = False
    beside: bool = False  # whether the page shows the table anyway


class Picture(NamedTuple):
    """An image with its words."""

    png: str  # base64
    title: str
    detail: str = ""
    true: str = ""  # classes
    predicted: str = ""


@dataclass(frozen=True)
class Pictures:
    """Images side by side, that can be filtered by class."""

    type: ClassVar[str] = "pictures"
    name: str  # of the file in plots/
    title: str
    pictures: Sequence[Picture]
    classes: Sequence[str] = ()
    wide: bool = False  # it is one image, as wide as the page


Block = Table | Text | Figure | Pictures


class Section(NamedTuple):
    """A part of the page with a heading."""

    anchor: str
    title: str
    blocks: Sequence[Block]


class Shown(NamedTuple):
    """A table's entry as a template prints it."""

    text: str
    detail: str = ""
    href: str = ""


def show(value: Any, kind: str) -> Shown:
    """Return what a value looks like."""
    if isinstance(value, Link):
        return Shown(value.text, href=value.href)
    number, low, high, note = _interval(value)
    if number is None:
        return Shown(note or NONE)
    return Shown(FORMATS[kind](number), limits(low, high, FORMATS[kind]) or note)


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
    named = zip(("", " low", " high"), _interval(value), strict=False)
    return [(f"{column.name}{end}", _short(each)) for end, each in named]


def _short(value: Any) -> Any:
    """Return a number with as many digits as a chart can show."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
