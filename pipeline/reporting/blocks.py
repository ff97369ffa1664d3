"""What a page consists of. The same blocks become HTML and Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.reporting.statistics import Spread

# By name, so that no reader of the code takes them for hyphens or letters.
NONE, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Value:
    """A number, what is said about it in small print, and where it comes from."""

    text: str
    detail: str = ""  # an interval, a unit
    link: str = ""


Entry = str | Value


@dataclass(frozen=True)
class Column:
    """A table's column; numbers stand to the right."""

    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table, folded away if it is only the evidence behind something else."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]
    folded: bool = False
    strong: int | None = None  # the row to stress
    anchors: Sequence[str] = ()  # of the rows, for links to them


@dataclass(frozen=True)
class Text:
    """A paragraph. ``tone`` is "" or "note" (something the reader must not miss) or "lead"."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""
    link: tuple[str, str] | None = None  # target, words; follows the text


@dataclass(frozen=True)
class Facts:
    """The few numbers that answer the first questions: label, value."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, Value]]


@dataclass(frozen=True)
class Figure:
    """A drawing with its words, its numbers and how to make it again."""

    name: str  # of the file in plots/
    alt: str
    caption: str
    svg: str
    table: Table
    command: str
    sources: Sequence[Value]  # the settings or the run that it shows, with links


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room; with a summary, folded away under it."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    summary: str = ""


Block = Table | Text | Facts | Figures


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def text_columns(*names: str) -> list[Column]:
    """Return columns of words."""
    return [Column(name, numeric=False) for name in names]


def number_columns(*names: str) -> list[Column]:
    """Return columns of numbers."""
    return [Column(name) for name in names]


def percent(value: float | None) -> str:
    """Return a proportion in percent with one decimal, without the sign."""
    return NONE if value is None else f"{100 * value:.1f}".replace("-", MINUS)


def points(value: float) -> str:
    """Return a difference of proportions in signed percentage points."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return an interval in percent or, signed, in points."""
    if low is None or high is None:
        return ""
    show = points if signed else percent
    return f"[{show(low)}, {show(high)}]"


def accuracy(spread: Spread) -> Value:
    """Return a mean accuracy with its interval over seeds, cut at 0 and 100."""
    if spread.low is None or spread.high is None:
        return Value(percent(spread.mean), "1 seed" if spread.n == 1 else "seeds equal")
    low, high = max(0.0, spread.low), min(1.0, spread.high)
    return Value(percent(spread.mean), interval(low, high))


def p_value(p: float | None) -> str:
    """Return a p-value in three decimals."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float) -> str:
    """Return a whole number with thin thousands separators."""
    return f"{number:,.0f}".replace(",", "\u202f")


def work(flops: float | None) -> str:
    """Return a number of floating-point operations for people."""
    if not flops:
        return NONE
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    step = min(int(math.log10(flops)) // 3, len(prefixes) - 1)
    return f"{flops / 1000**step:.3g}\N{NO-BREAK SPACE}{prefixes[step]}FLOP"


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
