"""What a method remembers of each unlabeled image, at a cost that follows the batch alone."""

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """A whole number per image. Writing and taking back look at the images of the batch alone."""

    values: Tensor

    def __init__(self, size: int, value: int) -> None:
        """Let ``size`` images start with ``value``."""
        super().__init__()
        self.register_buffer("values", torch.full((size,), value))
        self.replaced: tuple[Tensor, Tensor] | None = None  # by the newest write: where, and what

    def write(self, index: Tensor, values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write ``values`` ``[U]`` of the images ``index`` ``[U]`` where ``wanted`` ``[U]``.

        An image can be in a batch more than once. Of its values the first wanted one is written, on
        every device; ``index_copy_`` would write any of them.

        Returns:
            What was there and what is there now, both ``[U]``, and which entries are the first of
            their image.
        """
        count = len(index)
        places = torch.arange(count, device=index.device)
        same = torch.searchsorted(index.sort().values, index)  # equal for equal images, below count

        def first(chosen: Tensor) -> Tensor:
            """Return the first chosen place of each entry's image; ``count`` if there is none."""
            chosen = torch.where(chosen, places, count)
            none = torch.full_like(places, count)
            return none.scatter_reduce(0, same, chosen, "amin")[same]

        source = first(wanted)
        before = self.values[index]
        after = torch.where(source < count, values[source.clamp(max=count - 1)], before)
        self.values[index] = after  # entries of the same image have the same value
        self.replaced = index, before
        return before, after, first(torch.ones_like(wanted)) == places

    def take_back(self, unless: Tensor) -> None:
        """Undo the newest write, unless a scalar on the device says that the step was good."""
        if self.replaced is None:
            return
        index, before = self.replaced
        self.values[index] = torch.where(unless, self.values[index], before)
        self.replaced = None
