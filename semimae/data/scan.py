"""Passes over all images of a source, by several threads: Pillow decodes outside the lock."""

import hashlib
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from semimae.data.config import DataConfig
from semimae.data.images import convert, fit
from semimae.data.source import Source
from semimae.data.stratify import Rows

T = TypeVar("T")
Progress = Callable[[int, int], None]
MEASURED = 10_000  # images that the moments are taken from, if the images are not packed
_AHEAD = 8  # images in flight per thread: enough to keep it busy, few enough for the memory


@dataclass(frozen=True)
class Checked:
    """What is known of the images of a source after all were decoded."""

    rows: Rows  # [N], source indices of the good images, in the order of their names
    digests: NDArray[np.uint8]  # [N, 32], SHA-256 of their content
    sizes: NDArray[np.int32]  # [N, 2], width and height in pixels, after decoding
    bad: list[tuple[str, str]]  # name and reason of the others


def check_images(source: Source, config: DataConfig, progress: Progress) -> Checked:
    """Decode and convert each image once."""

    def check(index: int) -> tuple[bytes, tuple[int, int]] | str:
        try:
            content = source.read_bytes(index)
            if not content:
                return "empty file"
            with source.open(index) as image:
                size = convert(image, config.channels).size
        except Exception as error:  # Pillow's plugins raise whatever damaged data leads them to
            return decoding_error(error)
        return hashlib.sha256(content).digest(), size

    by_name = sorted(range(len(source.names)), key=source.names.__getitem__)
    good: list[int] = []
    digests = bytearray()
    sizes: list[tuple[int, int]] = []
    bad: list[tuple[str, str]] = []
    with pillow_warnings():
        for index, result in mapped(check, by_name, config.workers, progress):
            if isinstance(result, str):
                bad.append((source.names[index], result))
                continue
            good.append(index)
            digests += result[0]
            sizes.append(result[1])
    table = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
    shapes = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    return Checked(np.array(good, dtype=np.int64), table, shapes, bad)


def pack_and_count(
    source: Source,
    config: DataConfig,
    rows: Rows,
    training: NDArray[np.bool_],
    images: NDArray[np.uint8] | None,
    progress: Progress,
) -> NDArray[np.int64]:
    """Fill ``images`` and count the values of the training images, scaled and cropped.

    Args:
        source: The images.
        config: Their size and channels.
        rows: ``[N]``, source indices.
        training: ``[N]``, whether a row counts.
        images: ``[N, H, W, C]`` to fill, or None; then up to `MEASURED` evenly spaced training
            images stand for all.
        progress: Called with (done, total).

    Returns:
        ``[C, 256]``, how often each value occurs.
    """
    places = np.arange(len(rows))
    if images is None:
        places = np.flatnonzero(training)
        places = places[np.linspace(0, len(places) - 1, min(MEASURED, len(places))).astype(int)]

    def load(place: int) -> NDArray[np.uint8]:
        with source.open(int(rows[place])) as image:
            return fit(convert(image, config.channels), config.image_size)

    histogram = np.zeros((config.channels, 256), dtype=np.int64)
    with pillow_warnings():
        for place, pixels in mapped(load, places.tolist(), config.workers, progress):
            if images is not None:
                images[place] = pixels
            if training[place]:
                for channel, counts in enumerate(histogram):
                    counts += np.bincount(pixels[..., channel].ravel(), minlength=256)
    return histogram


def moments(histogram: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in [0, 1].

    Integers of any size make them the same on every machine, to the last bit.

    >>> moments(np.array([[1] + 254 * [0] + [1]]))
    ((0.5,), (0.5,))
    """
    mean, std = [], []
    for counts in histogram.tolist():
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        mean.append(total / (255 * n))
        std.append(math.sqrt((n * squares - total * total) / (255 * n) ** 2))
    return tuple(mean), tuple(std)


def mapped(
    function: Callable[[int], T], items: Sequence[int], workers: int, progress: Progress
) -> Iterator[tuple[int, T]]:
    """Yield ``(item, function(item))`` in order, computed by threads, few of them ahead."""
    workers = workers or os.cpu_count() or 1
    waiting: deque[tuple[int, Future[T]]] = deque()
    submitted = 0
    with ThreadPoolExecutor(workers) as pool:
        for done in range(1, len(items) + 1):
            for item in items[submitted : done + _AHEAD * workers]:
                waiting.append((item, pool.submit(function, item)))
                submitted += 1
            item, future = waiting.popleft()
            yield item, future.result()
            progress(done, len(items))


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Make a decompression bomb an error and keep quiet about odd metadata.

    Set around all threads, because warning filters belong to the process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decoding_error(error: Exception) -> str:
    """Say what is wrong with an image: the same on every machine, so without its full path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}".partition("\n")[0] or type(error).__name__
