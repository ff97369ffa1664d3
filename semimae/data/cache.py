"""Smaller copies of images that are too large to be packed: raw pixels, one image after the other.

They save decoding at every step. Their size is 3 bytes per pixel: at a shorter side of 256 about
0.26 MB for a photograph.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
