"""What a file of weights says of itself, so that it can be used without the data behind it."""

from typing import Literal

from semimae.cell import Cell
from semimae.data.store import DatasetInfo
from semimae.types import Frozen

METADATA = "semimae"  # key in the safetensors file


class ModelInfo(Frozen):
    """The metadata of ``model.safetensors``: how it was trained and on what."""

    format: Literal[1] = 1  # raise it when a field changes its meaning
    cell: Cell
    dataset: DatasetInfo

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that images are normalized with, in [0, 1]."""
        return self.cell.data.mean or self.dataset.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that images are normalized with."""
        return self.cell.data.std or self.dataset.std
