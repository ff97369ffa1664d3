"""From an image file of any kind to one 8-bit gray or RGB image.

`prepare` and training decode through this module, so both see the same pixels.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

T = TypeVar("T")
Progress = Callable[[int, int], None]  # of a pass over images: called with (done, total)
_AHEAD = 8  # images in flight per thread: enough to keep it busy, few enough for the memory

# Formats are listed, not taken from PIL's registry: that one would also hand PostScript to
# Ghostscript and take .pdf, .h5 and .mpeg for images, and it differs between builds of PIL.
FORMATS = {
    "BMP": [".bmp"],
    "GIF": [".gif"],
    "JPEG": [".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"],
    "JPEG2000": [".jp2"],
    "PNG": [".png"],
    "PPM": [".ppm", ".pgm", ".pbm", ".pnm"],
    "TIFF": [".tif", ".tiff"],
    "WEBP": [".webp"],
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def open_file(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image file lazily; what it is depends on its content, not on its name."""
    return Image.open(path, formats=list(FORMATS))


def convert(image: Image.Image, channels: Literal[1, 3]) -> Image.Image:
    """Decode ``image`` in full and return it in mode "L" or "RGB", in its own size.

    The first frame of an animation counts. EXIF orientation is applied; transparent pixels show
    a white ground; 16-bit values are scaled by 255/65535, not clipped; ICC profiles are ignored.

    Raises:
        ValueError: If the values have no defined range: floats, or integers above 16 bits.
        Exception: Whatever PIL raises on damaged data, an ``OSError`` as a rule.
    """
    image.load()
    with suppress(Exception):  # a damaged EXIF block says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = _to_8_bit(image)
    elif image.mode == "F":
        raise ValueError("float pixels have no defined range; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Scale the central square of ``image`` (mode "L" or "RGB") to ``[size, size, C]``.

    Bicubic with antialiasing, the same geometry as "resize the shorter side, crop the center".
    Cropping first never makes the long intermediate image that a 1 x 4000 strip would need.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = image.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.asarray(square, dtype=np.uint8).reshape(size, size, -1)


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # [H, W]; modes "I;16" and, for some files, "I"
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integer pixels outside 0..65535; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


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
