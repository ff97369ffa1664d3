"""From an image file of any kind to one 8-bit gray or RGB image.

`prepare` and training decode through this module, so both see the same pixels.
"""

import os
import stat
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

T = TypeVar("T")
Progress = Callable[[int, int], None]  # of a pass over images: called with (done, total)
_AHEAD = 8  # images in flight per thread: enough to keep it busy, few enough for the memory

# Formats are listed, not taken from PIL's registry: that one would also hand PostScript to
# Ghostscript and take .pdf, .h5 and .mpeg for images, and it differs between builds of PIL.
FORMATS = {
    "AVIF": [".avif"],
    "BMP": [".bmp"],
    "GIF": [".gif"],
    "HEIF": [".heic", ".heif", ".hif"],
    "JPEG": [".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"],
    "JPEG2000": [".jp2"],
    "PNG": [".png"],
    "PPM": [".ppm", ".pgm", ".pbm", ".pnm"],
    "TIFF": [".tif", ".tiff"],
    "WEBP": [".webp"],
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
FULL_RANGE = 65535  # the largest value of 16 bits
_HEAD = 64  # bytes that tell a format
# Formats that not every installation decodes, and what makes it do so.
_REMEDIES = {
    "AVIF": "AVIF, which needs a Pillow that reads it: pip install -U pillow",
    "HEIF": "HEIC, which needs the package pillow-heif: pip install pillow-heif",
}
_BRANDS = {"AVIF": (b"avif", b"avis"), "HEIF": (b"heic", b"heix", b"hevc", b"heim", b"mif1")}


@cache
def readable_formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that this installation decodes."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    Image.init()
    there = {name for name in FORMATS if name in Image.OPEN}
    return tuple(sorted(there if features.check("avif") else there - {"AVIF"}))


def open_file(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image file lazily; what it is depends on its content, not on its name.

    Raises:
        ValueError: If it is no plain file (a pipe would never end), or in a format that needs a
            decoder which is not installed.
        OSError: If it cannot be read, or is no image.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a plain file")
    try:
        return Image.open(path, formats=readable_formats())
    except UnidentifiedImageError:
        form = _boxed_format(_head(path))
        if form is None or form in readable_formats():
            raise
        raise ValueError(_REMEDIES[form]) from None


def recognize(path: str | os.PathLike[str]) -> str | None:
    """Return the format of a file, a key of ``FORMATS``, or None if it is no such image.

    The first bytes rule out most files, so that asking costs little.

    Raises:
        OSError: If it cannot be read.
    """
    head = _head(path)
    if form := _boxed_format(head):
        return form
    accepts = {name: Image.OPEN[name][1] for name in readable_formats()}
    likely = [name for name, accept in accepts.items() if accept is None or accept(head) is True]
    with suppress(Exception), pillow_warnings(), Image.open(path, formats=likely or ()) as image:
        return image.format
    return None


def _head(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _boxed_format(head: bytes) -> str | None:
    """Tell AVIF from HEIC by the brands in a file's first box.

    Source: ISO/IEC 14496-12, section 4.3; the brands are registered at mp4ra.org.
    """
    if head[4:8] != b"ftyp":
        return None
    brands = head[8:12], *(head[i : i + 4] for i in range(16, min(len(head), head[3]), 4))
    named = (form for form, known in _BRANDS.items() if any(brand in known for brand in brands))
    return next(named, None)


def convert(
    image: Image.Image, channels: Literal[1, 3], white_level: int | None = None
) -> Image.Image:
    """Decode ``image`` in full and return it in mode "L" or "RGB", in its own size.

    The first frame of an animation counts. EXIF orientation is applied; transparent pixels show
    a white ground; ICC profiles are ignored. Gray values of more than 8 bits are scaled by
    255 / ``white_level``, which stands for 65535 if it is None; what is above it becomes white.

    Raises:
        ValueError: If the values have no defined range: floats, or integers above 16 bits; or if
            there is a ``white_level`` and the image is in color of 16 bits per channel, of
            which Pillow keeps the upper 8.
        Exception: Whatever PIL raises on damaged data, an ``OSError`` as a rule.
    """
    if white_level is not None and _is_deep_color(image):
        raise ValueError(
            "16 bits per channel of color, which data.white_level cannot scale; save it with 8"
        )
    image.load()
    with suppress(Exception):  # a damaged EXIF block says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = _to_8_bit(image, white_level or FULL_RANGE)
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


def largest_value(image: Image.Image) -> int | None:
    """Decode ``image`` and return its largest value, 0 to 65535; None if it has 8 bits or fewer.

    Of color with 16 bits per channel Pillow keeps the upper 8, which the value follows from.
    """
    deep_color = _is_deep_color(image)
    image.load()
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    if not deep_color:
        return None
    colors = [band for band in image.getbands() if band != "A"]
    return 257 * max(int(np.asarray(image.getchannel(band)).max()) for band in colors)


def _is_deep_color(image: Image.Image) -> bool:
    """Tell whether an image that is not decoded yet has several channels of 16 bits."""
    tiles = getattr(image, "tile", ())
    return image.mode[0] != "I" and any(";16" in str(tile.args) for tile in tiles)


def _to_8_bit(image: Image.Image, white_level: int) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # [H, W]; modes "I;16" and, for some files, "I"
    if values.min() < 0 or values.max() > FULL_RANGE:
        raise ValueError("integer pixels outside 0..65535; save it with 8 or 16 bits")
    scaled = (values * 255 + white_level // 2) // white_level  # rounded
    return Image.fromarray(scaled.clip(max=255).astype(np.uint8))


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
