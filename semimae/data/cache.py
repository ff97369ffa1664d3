"""Smaller copies of images that are too large to be packed: raw pixels, one image after the other.

They save decoding at every step. Their size is 3 bytes per pixel: at a shorter side of 256 about
0.26 MB for a photograph.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semimae.data.config import DataConfig
from semimae.data.images import convert
from semimae.data.scan import Progress, mapped, pillow_warnings
from semimae.data.source import Source
from semimae.data.stratify import Rows

PIXELS, SIZES = "cache.npy", "cache_sizes.npy"
Sizes = NDArray[np.int32]  # [N, 2]: width and height in pixels


class PixelCache:
    """The copies, mapped from their file."""

    def __init__(self, pixels: NDArray[np.uint8], sizes: Sizes, channels: int) -> None:
        """Find where each image begins.

        Args:
            pixels: Of all images, ``[sum of width * height * channels]``.
            sizes: Of each image.
            channels: 1 or 3.

        Raises:
            ValueError: If there are more or fewer pixels than the sizes say.
        """
        self.pixels, self.sizes, self.channels = pixels, sizes, channels
        self.ends = np.cumsum(sizes.astype(np.int64).prod(axis=1) * channels)
        if pixels.shape != (int(self.ends[-1]),):
            raise ValueError("pixels and sizes do not fit together")

    @classmethod
    def read(cls, folder: Path, channels: int) -> "PixelCache":
        """Map what ``write_cache`` wrote."""
        return cls(np.load(folder / PIXELS, mmap_mode="r"), np.load(folder / SIZES), channels)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return an image ``[H, W, C]``: its place in the file."""
        width, height = self.sizes[index].tolist()
        end = int(self.ends[index])
        flat = self.pixels[end - width * height * self.channels : end]
        return flat.reshape(height, width, self.channels)


def cached_sizes(sizes: Sizes, shorter: int) -> Sizes:
    """Return the sizes of copies whose shorter side is ``shorter``; smaller images keep theirs.

    >>> cached_sizes(np.array([[500, 375], [300, 100]], dtype=np.int32), 256).tolist()
    [[341, 256], [300, 100]]
    """
    scale = np.minimum(1.0, shorter / sizes.min(axis=1, keepdims=True))
    small: Sizes = np.round(sizes * scale).astype(np.int32)
    return small


def write_cache(
    folder: Path, source: Source, config: DataConfig, rows: Rows, sizes: Sizes, progress: Progress
) -> None:
    """Write a copy of each image, scaled by bicubic filtering with antialiasing.

    Args:
        folder: Where to.
        source: The images.
        config: ``cache_size`` and ``channels``.
        rows: ``[N]``, source indices.
        sizes: Of these images, as they are after decoding.
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
            whole = convert(image, config.channels)
        width, height = small[place].tolist()
        if whole.size != (width, height):
            whole = whole.resize((width, height), Image.Resampling.BICUBIC)
        cache[place][...] = np.asarray(whole).reshape(height, width, -1)

    with pillow_warnings():
        for _ in mapped(copy, range(len(rows)), config.workers, progress):
            pass
    pixels.flush()
