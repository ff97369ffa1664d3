"""Means over many steps, kept on the device until they are asked for."""

import torch
from torch import Tensor


class Meter:
    """Weighted sums of scalars; reading them is the only transfer to the host."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # name -> [2]: sum of value * weight, sum of weights

    def add(self, name: str, value: Tensor, weight: Tensor | None = None) -> None:
        """Add ``weight * value`` (scalars) to the sum of ``name``; a weight of 0 adds nothing."""
        value = value.detach().float()
        weight = torch.ones_like(value) if weight is None else weight.detach().float()
        term = torch.stack([torch.where(weight > 0, value * weight, 0.0), weight])
        self.sums[name] = self.sums[name] + term if name in self.sums else term

    def flush(self) -> dict[str, float]:
        """Return the mean of every name that has weight, and start again."""
        if not self.sums:
            return {}
        rows = torch.stack(list(self.sums.values())).tolist()
        means = {k: s / w for k, (s, w) in zip(self.sums, rows, strict=True) if w > 0}
        self.sums = {}
        return means
