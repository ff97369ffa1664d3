"""Which images a step has."""

from functools import lru_cache

import numpy as np

from semimae.data.store import Rows
from semimae.random import permutation


def sample_rows(rows: Rows, count: int, seed: int, purpose: str, step: int) -> Rows:
    """Return the rows of a step, ``[count]``: shuffled passes over ``rows``, one after the other.

    ``count`` may exceed the number of rows; then a batch holds some of them more than once.
    """
    number, first, last = len(rows), step * count, (step + 1) * count
    parts = []
    for epoch in range(first // number, (last - 1) // number + 1):
        begin = epoch * number
        order = _epoch(number, seed, purpose, epoch)
        parts.append(order[max(first - begin, 0) : last - begin])
    chosen: Rows = rows[np.concatenate(parts)]
    return chosen


@lru_cache(maxsize=8)
def _epoch(n: int, seed: int, purpose: str, epoch: int) -> Rows:
    order: Rows = permutation(n, seed, purpose, epoch).numpy()
    return order


def rows_of_steps(rows: Rows, count: int, seed: int, purpose: str, steps: range) -> list[Rows]:
    """Return the rows of each step's global batch; none of images that are not used."""
    if not count:
        return [rows[:0]] * len(steps)
    return [sample_rows(rows, count, seed, purpose, step) for step in steps]


def places(own: slice) -> list[int]:
    """Return the places that a slice with a start and a stop stands for."""
    return list(range(own.start, own.stop))
