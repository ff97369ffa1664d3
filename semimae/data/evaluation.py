"""Whole images in their order, as models are scored on them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from semimae.data.augment import to_float
from semimae.data.reader import ImageReader
from semimae.data.sending import use
from semimae.data.store import Prepared, Rows
from semimae.options.data import CellData


def normalization(
    prepared: Prepared, config: CellData
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel: the config's, else what was measured."""
    return config.mean or prepared.info.mean, config.std or prepared.info.std


def eval_batches(
    prepared: Prepared, config: CellData, rows: Rows, device: torch.device, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalized whole images ``[B, C, S, S]``, on the device, and their labels ``[B]``.

    They come in the order of rows. The next ones are read while these are worked on.
    """
    reader = ImageReader(prepared, config, rows, device, resident=False)
    mean, std = normalization(prepared, config)
    chunks = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with ThreadPoolExecutor(1, initializer=use, initargs=(device,)) as ahead:
        reading = ahead.submit(reader.whole, chunks[0]) if chunks else None
        for place, chunk in enumerate(chunks, start=1):
            assert reading is not None
            images = reading.result()
            reading = ahead.submit(reader.whole, chunks[place]) if place < len(chunks) else None
            yield to_float(images, mean, std), torch.from_numpy(prepared.labels[chunk])
