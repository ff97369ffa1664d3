"""Write the smaller copies of images that ``data.cache`` reads."""

from pathlib import Path

import numpy as np
from PIL import Image

from semimae.data.cache import PIXELS, SIZES, PixelCache, Sizes, cached_sizes
from semimae.data.images import Progress, convert, mapped, pillow_warnings
from semimae.data.store import Rows
from semimae.ingest.source import Source
from semimae.options.data import DataConfig


def write_cache(
    folder: Path, source: Source, config: DataConfig, rows: Rows, sizes: Sizes, progress: Progress
) -> None:
    """Write a copy of each image, scaled by bicubic filtering with antialiasing.

    Args:
        folder: Folder to write to.
        source: The images.
        config: Gives ``cache_size``, ``channels`` and ``white_level``.
        rows: ``[N]``, source indices.
        sizes: Sizes of these images after decoding.
        progress: Called with (done, total).
    """
    assert config.cache_size is not None
    small = cached_sizes(sizes, config.cache_size)
    np.save(folder / SIZES, small)
    length = int((small.astype(np.int64).prod(axis=1) * config.channels).sum())
    pixels = np.lib.format.open_memmap(folder / PIXELS, mode="w+", dtype=np.uint8, shape=(length,))
    cache = PixelCache(pixels, small, config.channels)

    def copy(place: int) -> None:
        with source.open(int(rows[place])) as image:
            whole = convert(image, config.channels, config.white_level)
        width, height = small[place].tolist()
        if whole.size != (width, height):
            whole = whole.resize((width, height), Image.Resampling.BICUBIC)
        cache[place][...] = np.asarray(whole).reshape(height, width, -1)

    with pillow_warnings():
        for _ in mapped(copy, range(len(rows)), config.workers, progress):
            pass
    pixels.flush()
