"""From rows of prepared images to bytes on the device."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from semimae.data.crops import center_crop, resized_crop
from semimae.data.sending import sent
from semimae.data.store import Prepared, Rows
from semimae.options.data import CellData


class ImageReader:
    """Reads rows as uint8 tensors ``[B, C, S, S]`` on a device.

    Packed images live there, or on the host where they are not ``resident``. Others are decoded and
    scaled by threads: neither Pillow nor torch holds the interpreter's lock meanwhile.
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
        self.pool = ThreadPoolExecutor(prepared.workers or os.cpu_count() or 1)
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
        size = self.config.image_size
        made = self.pool.map(lambda row: center_crop(self.prepared.pixels(row), size), rows)
        return self._stacked(list(made))

    def crops(self, rows: Rows, draws: list[Tensor]) -> list[Tensor]:
        """Return a random resized crop per element of ``draws`` (``[B, 4]``) from one decoding."""
        size, min_scale = self.config.image_size, self.config.crop_min_scale

        def views(row: int, parameters: list[list[float]]) -> list[Tensor]:
            pixels = self.prepared.pixels(row)
            return [resized_crop(pixels, size, min_scale, *p) for p in parameters]

        made = list(self.pool.map(views, rows, torch.stack(draws, dim=1).tolist()))
        return [self._stacked([view[i] for view in made]) for i in range(len(draws))]

    def _stacked(self, images: list[Tensor]) -> Tensor:
        if not images:  # of a process whose share is empty
            size = self.config.image_size
            shape = (0, self.config.channels, size, size)
            return torch.empty(shape, dtype=torch.uint8, device=self.device)
        return sent(torch.stack(images), self.device)
