"""Which rows of a labeled set to take so that every class has its share."""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semimae.data.store import Rows
from semimae.types import UserError


def stratified_order(labels: NDArray[np.int64], rank: NDArray[Any]) -> Rows:
    """Order rows such that every head of the order, and every tail, is stratified.

    With C classes in ``labels``, n rows, and s = k * n_c / n the proportional share of class c in
    the first k rows, the first k rows hold of each class c

    * at least one row once k >= C,
    * never more than s rounded up,
    * and from the k on at which the smallest class's share reaches one, never less than s rounded
      down, hence always within one of proportional. With classes of one size, at any k.

    Sets of different sizes are nested because they are heads of one order. Largest remainders
    computed for each size separately are not (the Alabama paradox), and sorting by
    ``(j - 0.5) / n_c`` is, but strays from the share by several rows if sizes differ much.

    So the rows are scheduled: the j-th row of class c may take a place from
    ``floor((j - 1) n / n_c)`` on and is due by ``ceil(j n / n_c)``; of the rows that may, each
    place goes to the one due first. Source: Baruah et al., "Proportionate progress" (1996), for
    the windows; that earliest deadline first meets all of them on one machine is classical.

    Args:
        labels: ``[n]``, class of each row.
        rank: ``[n]``, order of the rows within a class; ties keep the order of rows.

    Returns:
        ``[n]``, the row indices ``0..n-1`` in that order.
    """
    n = len(labels)
    by_class = np.lexsort((rank, labels))  # [n], rows grouped by class
    _, start, size = np.unique(labels[by_class], return_index=True, return_counts=True)
    sizes = np.repeat(size, size)  # [n], n_c
    j = np.arange(n) - np.repeat(start, size)  # [n], from 0
    release = j * n // sizes
    due = np.where(j == 0, 0, -(-(j + 1) * n // sizes))  # 0: first of a class, before all others
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


def held_out_count(num_rows: int, fraction: float, num_classes: int, option: str) -> int:
    """Return how many of ``num_rows`` to hold out: at least one, leaving one of each class.

    Raises:
        UserError: If that cannot be; it names ``option``.
    """
    count = max(1, round(fraction * num_rows))
    if num_rows - count < num_classes:
        raise UserError(
            f"{option}={fraction:g} takes {count} of {num_rows} labeled images, but "
            f"{num_classes} classes need one each for training; lower it or add images."
        )
    return count
