"""Means over many steps, kept on the device until they are asked for."""

import torch
from torch import Tensor


class Meter:
    """Weighted sums of scalars and vectors; reading them is the only transfer to the host."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # name -> [2, n]: sums of value * weight, of weights

    def add(self, name: str, value: Tensor, weight: Tensor | None = None) -> None:
        """Add ``weight * value`` to the sum of ``name``; a weight of 0 adds nothing.

        Args:
            name: A vector's elements are called ``name/0``, ``name/1``, ...
            value: A scalar or ``[n]``.
            weight: Of the value's shape or a scalar; 1 by default.
        """
        value = value.detach().float().reshape(-1)
        weight = (
            torch.ones_like(value) if weight is None else weight.detach().float().expand_as(value)
        )
        term = torch.stack([torch.where(weight > 0, value * weight, 0.0), weight])
        self.sums[name] = self.sums[name] + term if name in self.sums else term

    def flush(self) -> dict[str, float]:
        """Return the mean of every name that has weight, and start again."""
        if not self.sums:
            return {}
        ordered = sorted(self.sums.items())  # a checkpoint does not keep the order of addition
        names = [
            name if sums.shape[1] == 1 else f"{name}/{i}"
            for name, sums in ordered
            for i in range(sums.shape[1])
        ]
        totals, weights = torch.cat([sums for _, sums in ordered], dim=1).tolist()
        self.sums = {}
        return {n: t / w for n, t, w in zip(names, totals, weights, strict=True) if w > 0}
