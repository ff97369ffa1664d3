"""How numbers read, by the kind of their column."""

import math
from collections.abc import Callable
from typing import Any

# By name, so that no reader of the code takes them for hyphens.
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


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


def limits(low: float | None, high: float | None, text: Callable[[float], str] = percent) -> str:
    """Return the ends of an interval, if there is one."""
    return "" if low is None or high is None else f"[{text(low)}, {text(high)}]"
