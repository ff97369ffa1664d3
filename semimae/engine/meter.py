"""Means over many steps, kept on the device until they are asked for."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """What one step adds."""

    sizes: Mapping[str, int]  # by name, in the order of ``values``
    values: Tensor  # [2, n]: values times weights, weights


class Meter:
    """Weighted sums of scalars and vectors; reading them is the only transfer to the host.

    What a step adds is laid into one vector at its end: a GPU starts few operations for it.
    """

    def __init__(self) -> None:
        self.totals: Tensor | None = None  # [2, n]: sums of value * weight, of weights
        self.places: dict[str, slice] = {}  # of each name in ``totals``
        self.waiting: dict[str, tuple[Tensor, Tensor | None]] = {}  # added since the step began

    def add(self, name: str, value: Tensor, weight: Tensor | None = None) -> None:
        """Add ``weight * value`` to the sum of ``name``; a weight of 0 adds nothing.

        Args:
            name: A vector's elements are called ``name/0``, ``name/1``, ...
            value: A scalar or ``[n]``, which must not change before the step ends.
            weight: Of the value's shape or a scalar; 1 by default.
        """
        if name in self.waiting:
            self.end_step()
        self.waiting[name] = value.detach(), None if weight is None else weight.detach()

    def end_step(self) -> None:
        """Bring the sums up to date."""
        if self.waiting:
            self.include(self.take())

    def take(self) -> Terms:
        """Return what was added since the step began, and forget it."""
        values = [value.float().reshape(-1) for value, _ in self.waiting.values()]
        weights = [
            torch.ones_like(value) if weight is None else weight.float().expand_as(value)
            for value, (_, weight) in zip(values, self.waiting.values(), strict=True)
        ]
        value, weight = torch.cat(values), torch.cat(weights)
        sizes = dict(zip(self.waiting, map(len, values), strict=True))
        self.waiting = {}
        return Terms(sizes, torch.stack([torch.where(weight > 0, value * weight, 0.0), weight]))

    def include(self, added: Terms) -> None:
        """Add what ``take`` returned to the sums."""
        sizes, terms = added
        missing = {name: size for name, size in sizes.items() if name not in self.places}
        if missing:
            start = 0 if self.totals is None else self.totals.shape[1]
            more = terms.new_zeros(2, sum(missing.values()))
            self.totals = more if self.totals is None else torch.cat([self.totals, more], dim=1)
            for name, size in missing.items():
                self.places[name] = slice(start, start + size)
                start += size
        assert self.totals is not None
        runs: list[list[int]] = []  # start in ``totals``, start in ``terms``, length
        begin = 0
        for name, size in sizes.items():
            place = self.places[name].start
            if runs and runs[-1][0] + runs[-1][2] == place:
                runs[-1][2] += size
            else:
                runs.append([place, begin, size])
            begin += size
        for place, begin, size in runs:  # most often one
            self.totals[:, place : place + size] += terms[:, begin : begin + size]

    @property
    def sums(self) -> dict[str, Tensor]:
        """By name ``[2, n]``: sums of value * weight, and of weights."""
        self.end_step()
        if self.totals is None:
            return {}
        return {name: self.totals[:, place] for name, place in self.places.items()}

    @sums.setter
    def sums(self, sums: Mapping[str, Tensor]) -> None:
        self.totals, self.places, self.waiting = None, {}, {}
        for name, terms in sums.items():
            self.include(Terms({name: terms.shape[1]}, terms))

    def flush(self) -> dict[str, float]:
        """Return the mean of every name that has weight, and start again."""
        self.end_step()
        if self.totals is None:
            return {}
        totals, weights = self.totals.tolist()
        means = {}
        for name, place in sorted(self.places.items()):  # a checkpoint does not keep the order
            only = place.stop - place.start == 1
            for index in range(place.start, place.stop):
                if weights[index] > 0:
                    label = name if only else f"{name}/{index - place.start}"
                    means[label] = totals[index] / weights[index]
        self.sums = {}
        return means
