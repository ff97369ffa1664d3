"""From a large JPEG file to two random crops, by several libraries."""

import contextlib
import cProfile
import io
import pstats
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import io as torchvision_io
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop as crop

from benchmarks.measure import Call, interleaved
from semimae.data.cache import PixelCache
from semimae.data.crops import Box, random_box, resized_crop, scaled
from semimae.data.images import convert
from semimae.data.reader import ImageReader
from semimae.data.store import DatasetInfo, Prepared
from semimae.ingest.source import from_files
from semimae.ingest.write_cache import write_cache
from semimae.options.data import DataConfig
from semimae.random import uniform

WIDTH, HEIGHT, SIDE, CACHE, FILES = 500, 375, 224, 256, 16
READ = 8 * FILES  # at a time, by several workers
KINDS: Final[tuple[Literal["threads", "processes"], ...]] = ("threads", "processes")
OURS = "Pillow, scaled by torch"  # what this project does
# Calls in which Python's lock is free. Copies of pixels hold it, and so does all of Python's work.
FREE = ("'decode' of 'ImagingDecoder'", "_upsample_bicubic2d_aa")
Decode = Callable[[bytes], Any]
Crop = Callable[[Any, Box], object]


def measure_decoding(config: DataConfig, rounds: int) -> dict[str, float]:
    """Return processor milliseconds to decode an image, and to decode it and make two random crops.

    OpenCV and simplejpeg are measured where they are installed; this project does not need them.
    """
    draws = [uniform((FILES, 4), 0, "crop", view).tolist() for view in ("weak", "strong")]

    def boxes(width: int, height: int) -> list[list[Box]]:
        return [[random_box(width, height, config.crop_min_scale, *d) for d in v] for v in draws]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = _photographs(folder)
        contents = [(folder / name).read_bytes() for name in names]
        cache = _cache(folder, names, config)
        calls: dict[str, Call] = {}
        for library, (decode, crop) in _libraries().items():

            def both(decode: Decode = decode, crop: Crop = crop) -> None:
                for content, *views in zip(contents, *boxes(WIDTH, HEIGHT), strict=True):
                    image = decode(content)
                    for box in views:
                        crop(image, box)

            def alone(decode: Decode = decode) -> None:
                for content in contents:
                    decode(content)

            calls[f"{library}: decode"] = alone
            calls[f"{library}: decode, two crops"] = both

        def twice() -> None:
            for content, *views in zip(contents, *boxes(WIDTH, HEIGHT), strict=True):
                for box in views:
                    scaled(_pixels(content), SIDE, box)

        def copied() -> None:
            height, width = cache[0].shape[:2]
            for index, views in enumerate(zip(*boxes(width, height), strict=True)):
                for box in views:
                    scaled(cache[index], SIDE, box)

        calls[f"{OURS}: decode twice, two crops"] = twice
        calls[f"{OURS}: two crops of copies of {CACHE} px"] = copied
        with warnings.catch_warnings():  # torchvision will drop its decoders
            warnings.simplefilter("ignore", DeprecationWarning)
            seconds = interleaved(calls, torch.device("cpu"), rounds)
    return {name: 1000 * s / FILES for name, s in seconds.items()}


def lock_shares(config: DataConfig, rounds: int) -> dict[str, float]:
    """Return the share of the time of an image in which its thread holds Python's lock.

    Threads make at most one over it times the images of one thread, however many there are. The
    time without the lock is that of one profile.
    """
    draws = uniform((FILES, 2, 4), 0, "crop").tolist()
    with tempfile.TemporaryDirectory() as name:
        names = _photographs(Path(name))
        contents = [(Path(name) / file).read_bytes() for file in names]
        cache = _cache(Path(name), names, config)

        def crops(images: Iterable[NDArray[np.uint8]]) -> None:
            for pixels, views in zip(images, draws, strict=True):
                for own in views:
                    resized_crop(pixels, SIDE, config.crop_min_scale, *own)

        calls: dict[str, Call] = {
            "decoded, two crops": lambda: crops(map(_pixels, contents)),
            f"two crops of copies of {CACHE} px": lambda: crops(cache[i] for i in range(FILES)),
        }
        seconds = interleaved(calls, torch.device("cpu"), rounds)
        shares = {}
        for name, call in calls.items():
            profile = cProfile.Profile(time.thread_time)
            profile.runcall(call)
            stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
            own = {function: times[2] for (*_, function), times in stats.items()}
            free = sum(own[function] for function in own if any(part in function for part in FREE))
            shares[name] = 1 - free / seconds[name]
    return shares


def measure_workers(config: DataConfig, rounds: int) -> dict[str, dict[str, float]]:
    """Return medians of decoding and cropping by threads and by processes, 1 and 2 of them.

    They are images per second of wall time, and processor milliseconds per image: of this process,
    whose threads share a lock, and of all.
    """
    draws = [uniform((READ, 4), 0, "crop", view) for view in ("weak", "strong")]
    rows = np.arange(READ)
    config = config.model_copy(update={"channels": 3, "image_size": SIDE})
    ways: dict[str, tuple[ImageReader, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        names = _photographs(Path(name)) * (READ // FILES)
        info = DatasetInfo.model_construct(channels=3, white_level=None)
        for workers in (1, 2):
            for decode in KINDS:
                labels, splits = np.zeros(READ, dtype=np.int64), np.full(READ, "train")
                prepared = Prepared(
                    info, names, labels, splits, None, Path(name), workers=workers, decode=decode
                )
                reader = ImageReader(prepared, config, rows, torch.device("cpu"))
                ways[f"{workers} {decode}"] = reader, []
        for turn in range(rounds + 1):
            for reader, measured in ways.values():
                before = time.perf_counter(), time.process_time(), _others()
                reader.crops(rows, draws)
                after = time.perf_counter(), time.process_time(), _others()
                wall, own, others = (b - a for a, b in zip(before, after, strict=True))
                if turn:
                    times = {"here": 1000 * own / READ, "in all": 1000 * (own + others) / READ}
                    measured.append({"images/s": READ / wall, **times})
    return {
        way: {key: statistics.median(m[key] for m in measured) for key in measured[0]}
        for way, (_, measured) in ways.items()
    }


def _others() -> float:
    """Return the processor seconds of the processes that decode: this process has no others."""
    times = (child.cpu_times() for child in psutil.Process().children())
    return float(sum(each.user + each.system for each in times))


def _photographs(folder: Path) -> list[str]:
    """Write parts of scikit-learn's two photographs as JPEG files of ImageNet's typical size."""
    from sklearn.datasets import load_sample_images

    draws = np.random.default_rng(0)
    photographs = load_sample_images().images
    names = []
    for index in range(FILES):
        top, left = draws.integers(0, [427 - HEIGHT, 640 - WIDTH])
        part = photographs[index % 2][top : top + HEIGHT, left : left + WIDTH]
        names.append(f"{index}.jpg")
        Image.fromarray(part).save(folder / names[-1], quality=92)
    return names


def _cache(folder: Path, names: list[str], config: DataConfig) -> PixelCache:
    source = from_files("photographs", folder, [(name, 0, "train") for name in names], ["a"])
    options = config.model_copy(update={"cache_size": CACHE, "channels": 3, "workers": 1})
    sizes = np.tile(np.array([[WIDTH, HEIGHT]], dtype=np.int32), (FILES, 1))
    write_cache(folder, source, options, np.arange(FILES), sizes, lambda done, total: None)
    return PixelCache.read(folder, 3)


def _pillow(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return convert(image, 3)


def _pixels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(_pillow(content))


def _pillow_crop(image: Image.Image, box: Box) -> object:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _libraries() -> dict[str, tuple[Decode, Crop]]:
    """Return how each library that is here decodes, and crops with antialiasing."""
    found: dict[str, tuple[Decode, Crop]] = {
        OURS: (_pixels, lambda image, box: scaled(image, SIDE, box)),
        "Pillow": (_pillow, _pillow_crop),
    }
    decode_jpeg = getattr(torchvision_io, "decode_jpeg", None)  # not in every build
    if decode_jpeg is not None:

        def torchvision(content: bytes) -> Any:
            return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))

        def torchvision_crop(image: Any, box: Box) -> object:
            left, top, right, bottom = (round(value) for value in box)
            size = [bottom - top, right - left, [SIDE, SIDE]]
            return crop(image, top, left, *size, InterpolationMode.BICUBIC, True)

        found["torchvision"] = torchvision, torchvision_crop
    with contextlib.suppress(ImportError):
        import cv2

        def opencv(content: bytes) -> Any:
            return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)

        def opencv_crop(image: Any, box: Box) -> object:
            left, top, right, bottom = (round(value) for value in box)
            return cv2.resize(
                image[top:bottom, left:right], (SIDE, SIDE), interpolation=cv2.INTER_AREA
            )

        found["OpenCV"] = opencv, opencv_crop
        with contextlib.suppress(ImportError):
            import simplejpeg

            found["simplejpeg, OpenCV"] = simplejpeg.decode_jpeg, opencv_crop
    return found
