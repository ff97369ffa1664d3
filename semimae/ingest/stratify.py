"""Stratified orders: take rows of a labeled set such that every class has its share."""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semimae.data.store import Rows
from semimae.types import UserError


def stratified_order(labels: NDArray[np.int64], rank: NDArray[Any]) -> Rows:
    """Order rows such that every head of the order, and every tail, is stratified.

    Let ``labels`` have C classes and n rows, and let s = k * n_c / n be the proportional share of
    class c in the first k rows. For each class c, the first k rows contain

    * at least one row if k >= C,
    * at most s rows, rounded up,
    * at least s rows, rounded down, as soon as the share of the smallest class reaches one. If all
      classes have the same size, this holds for every k.

    Sets of different sizes are nested, because they are heads of the same order. Computing largest
    remainders for each size would not nest them (the Alabama paradox). Sorting by
    ``(j - 0.5) / n_c`` would, but can be off by several rows if class sizes differ a lot.

    The order is a schedule: row j of class c is released at place ``floor((j - 1) n / n_c)`` and
    due at ``ceil(j n / n_c)``, and each place goes to the released row with the earliest deadline.
    Source: Baruah et al., "Proportionate progress" (1996), for the windows. That earliest deadline
    first meets all deadlines on one machine is a classical result.

    Args:
        labels: ``[n]``, class of each row.
        rank: ``[n]``, order of the rows within a class. Ties keep the order of rows.

    Returns:
        ``[n]``, the row indices ``0..n-1`` in that order.
    """
    n = len(labels)
    by_class = np.lexsort((rank, labels))  # [n], rows grouped by class
    _, start, size = np.unique(labels[by_class], return_index=True, return_counts=True)
    sizes = np.repeat(size, size)  # [n], n_c
    j = np.arange(n) - np.repeat(start, size)  # [n], from 0
    release = j * n // sizes
    due = np.where(j == 0, 0, -(-(j + 1) * n // sizes))  # 0: the first of a class comes first
    arrival = np.argsort(release, kind="stable")
    releases = release[arrival].tolist()
    keys = (due * n + np.arange(n))[arrival].tolist()  # due, then class; modulo n: the place
    waiting: list[int] = []
    order = []
    arrived = 0
    for place in range(n):
        while arrived < n and releases[arrived] <= place:
            heapq.heappush(waiting, keys[arrived])
            arrived += 1
        order.append(heapq.heappop(waiting) % n)
    return by_class[np.array(order, dtype=np.int64)]


def stratified_folds(labels: NDArray[np.int64], rank: NDArray[Any], num_folds: int) -> list[Rows]:
    """Deal rows out to folds, class by class.

    The sizes of two folds differ by at most one, and so do their rows of one class.

    Args:
        labels: ``[n]``, class of each row.
        rank: ``[n]``, order of the rows within a class.
        num_folds: At most ``n``.

    Returns:
        The row indices of each fold, ascending.
    """
    by_class = np.lexsort((rank, labels))
    return [np.sort(by_class[number::num_folds]) for number in range(num_folds)]


def held_out_count(num_rows: int, fraction: float, num_classes: int, option: str) -> int:
    """Return how many of ``num_rows`` to hold out: at least one, leaving one of each class.

    Raises:
        UserError: If that is impossible. The message mentions ``option``.
    """
    count = max(1, round(fraction * num_rows))
    if num_rows - count < num_classes:
        raise UserError(
            f"{option}={fraction:g} holds out {count} of {num_rows} labeled images, but each of "
            f"the {num_classes} classes needs one for training; lower it or add images."
        )
    return count
