"""From rows of prepared images to bytes on the device."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from semimae.data.crops import square_views
from semimae.data.decoding import Request, processes
from semimae.data.sending import sent
from semimae.data.store import Prepared, Rows
from semimae.distributed import launched_world
from semimae.options.data import CellData

_MOST = 16  # processes unless data.workers says more: they decode faster than a GPU trains
_FEWEST = 4  # workers from which on the lock is what holds threads back: docs/performance.md
_CHUNK = 16  # images per request, at most: enough for its cost not to count


class ImageReader:
    """Reads rows as uint8 tensors ``[B, C, S, S]`` on a device.

    Packed images live there, or on the host where they are not ``resident``. Others are decoded and
    scaled by threads, or by processes: the bytes are the same.
    """

    def __init__(
        self,
        prepared: Prepared,
        config: CellData,
        rows: Rows,
        device: torch.device,
        *,
        resident: bool = True,
    ) -> None:
        self.prepared, self.config, self.device = prepared, config, device
        count = num_processes(prepared, device)
        self.processes = processes(count) if count else None
        self.pool = ThreadPoolExecutor(count or prepared.workers or os.cpu_count() or 1)
        self.packed: Tensor | None = None
        if prepared.images is not None:  # only the rows that were asked for, in their order
            self.place = np.full(len(prepared.labels), -1)
            self.place[rows] = np.arange(len(rows))
            chosen = np.ascontiguousarray(prepared.images[rows].transpose(0, 3, 1, 2))
            self.packed = torch.from_numpy(chosen)
            if resident:  # once, so that it may wait: all of it in pinned memory would be a lot
                self.packed = self.packed.to(device)

    def whole(self, rows: Rows) -> Tensor:
        """Return whole images; where they are not packed, scaled and cropped at the center."""
        if self.packed is not None:
            # index_select: many times faster than indexing for bytes on the CPU
            places = sent(torch.from_numpy(self.place[rows]), self.packed.device)
            return sent(self.packed.index_select(0, places), self.device)
        return self._read(rows, torch.empty(len(rows), 0, 4))[0]

    def crops(self, rows: Rows, draws: list[Tensor]) -> list[Tensor]:
        """Return a random resized crop per element of ``draws`` (``[B, 4]``) from one decoding."""
        return list(self._read(rows, torch.stack(draws, dim=1)))

    def _read(self, rows: Rows, draws: Tensor) -> Tensor:
        """Return ``[V, B, C, S, S]`` by draws ``[B, V, 4]``, whole images where there are none."""
        config, size = self.config, self.config.image_size
        shape = (max(1, draws.shape[1]), len(rows), config.channels, size, size)
        made = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        parameters = draws.tolist()

        def here(row: int, own: list[list[float]]) -> list[Tensor]:
            return square_views(self.prepared.pixels(row), size, config.crop_min_scale, own)

        def there(part: slice) -> None:
            names = [self.prepared.names[row] for row in rows[part]]
            options = (size, config.crop_min_scale, parameters[part])
            assert self.processes is not None
            self.processes.read(Request(self.prepared.files, names, *options), made[:, part])

        if self.processes is None:
            views = list(self.pool.map(here, rows, parameters))
            for into, part in zip(made, zip(*views, strict=True), strict=False):  # none of no rows
                torch.stack(part, out=into)
        else:
            step = max(1, min(_CHUNK, len(rows) // (2 * self.processes.count)))
            parts = [slice(start, start + step) for start in range(0, len(rows), step)]
            list(self.pool.map(there, parts))
        return made.to(self.device, non_blocking=True)


def num_processes(prepared: Prepared, device: torch.device) -> int:
    """Return how many processes decode; 0: threads do, or there is nothing to decode."""
    if prepared.images is not None or prepared.cache is not None or prepared.decode == "threads":
        return 0
    cores = (os.cpu_count() or 1) // launched_world().size
    count = prepared.workers or max(1, min(_MOST, cores))
    if prepared.decode == "auto" and (device.type != "cuda" or count < _FEWEST):
        return 0
    return count
