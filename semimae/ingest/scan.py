"""Passes over all images of a source in several threads. Pillow decodes outside the GIL."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semimae.data.images import (
    Progress,
    convert,
    decoding_error,
    fit,
    largest_value,
    mapped,
    pillow_warnings,
)
from semimae.data.store import Rows
from semimae.ingest.source import Source
from semimae.options.data import DataConfig

MEASURED = 10_000  # images used to measure mean and standard deviation, if they are not packed


@dataclass(frozen=True)
class Checked:
    """The result of decoding all images of a source."""

    rows: Rows  # [N], source indices of the good images, in the order of their names
    digests: NDArray[np.uint8]  # [N, 32], SHA-256 of their content
    sizes: NDArray[np.int32]  # [N, 2], width and height in pixels, after decoding
    levels: NDArray[np.int32]  # [N], largest value of images with more than 8 bits, else -1
    bad: list[tuple[str, str]]  # name and reason of the other images


def check_images(source: Source, config: DataConfig, progress: Progress) -> Checked:
    """Decode and convert each image once."""

    def check(index: int) -> tuple[bytes, tuple[int, int], int] | str:
        try:
            content = source.read_bytes(index)
            if not content:
                return "empty file"
            with source.open(index) as image:
                largest = largest_value(image)
                size = convert(image, config.channels, config.white_level).size
        except Exception as error:  # damaged data can make Pillow raise any exception
            return decoding_error(error)
        return hashlib.sha256(content).digest(), size, -1 if largest is None else largest

    by_name = sorted(range(len(source.names)), key=source.names.__getitem__)
    good: list[int] = []
    digests = bytearray()
    sizes: list[tuple[int, int]] = []
    levels: list[int] = []
    bad: list[tuple[str, str]] = []
    with pillow_warnings():
        for index, result in mapped(check, by_name, config.workers, progress):
            if isinstance(result, str):
                bad.append((source.names[index], result))
                continue
            good.append(index)
            digests += result[0]
            sizes.append(result[1])
            levels.append(result[2])
    table = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
    shapes = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    values = np.array(levels, dtype=np.int32)
    return Checked(np.array(good, dtype=np.int64), table, shapes, values, bad)


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
        training: ``[N]``, whether to count a row.
        images: ``[N, H, W, C]`` to fill, or None. With None, up to `MEASURED` evenly spaced
            training images are counted.
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
            return fit(convert(image, config.channels, config.white_level), config.image_size)

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

    Integer arithmetic makes them bitwise equal on every machine.

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
