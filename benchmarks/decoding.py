"""From a large JPEG file to two random crops, by several libraries."""

import importlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import interleaved
from semimae.data.cache import PixelCache, write_cache
from semimae.data.config import DataConfig
from semimae.data.images import convert, open_file
from semimae.data.source import from_files
from semimae.random import uniform

SIDE, CACHE, FILES = 224, 256, 16
Decode = Callable[[bytes], Any]
Crop = Callable[[Any, tuple[float, float, float, float]], object]


def measure_decoding(config: DataConfig, rounds: int) -> dict[str, dict[str, float]]:
    """Return processor milliseconds per image: to decode it, and for it with a weak and a strong
    random crop of 224 px.

    OpenCV and simplejpeg are measured where they are installed; this project does not need them.
    """  # noqa: D205
    with tempfile.TemporaryDirectory() as folder:
        names = _photographs(Path(folder))
        contents = [(Path(folder) / name).read_bytes() for name in names]
        sizes = np.tile(np.array([[500, 375]], dtype=np.int32), (len(names), 1))
        source = from_files("photographs", Path(folder), [(n, 0, "train") for n in names], ["a"])
        small = config.model_copy(update={"cache_size": CACHE, "channels": 3, "workers": 1})
        write_cache(
            Path(folder), source, small, np.arange(len(names)), sizes, lambda done, total: None
        )
        cache = PixelCache.read(Path(folder), 3)
        draws = [uniform((len(names), 4), 0, "crop", view).tolist() for view in ("weak", "strong")]
        boxes = [[_box(500, 375, config.crop_min_scale, *d) for d in view] for view in draws]
        calls: dict[str, Callable[[], object]] = {}
        for name, (decode, crop) in _libraries().items():

            def both(decode: Decode = decode, crop: Crop = crop) -> None:
                for i, content in enumerate(contents):
                    image = decode(content)
                    for view in boxes:
                        crop(image, view[i])

            def alone(decode: Decode = decode) -> None:
                for content in contents:
                    decode(content)

            calls[f"{name}: decode"], calls[f"{name}: decode, two crops"] = alone, both

        def twice() -> None:
            for i, content in enumerate(contents):
                for view in boxes:
                    _pillow_crop(_pillow(content), view[i])

        def cached() -> None:
            for i in range(len(contents)):
                for view in boxes:
                    scaled(cache[i], SIDE, view[i])

        calls["Pillow: decode twice, two crops"] = twice
        calls[f"copies of {CACHE} px: two crops"] = cached
        seconds = interleaved(calls, torch.device("cpu"), rounds)
    return {name: {"ms": 1000 * s / len(contents)} for name, s in seconds.items()}


def _photographs(folder: Path) -> list[str]:
    """Write parts of scikit-learn's two photographs as JPEG files of ImageNet's typical size."""
    from sklearn.datasets import load_sample_images

    draws = np.random.default_rng(0)
    photographs = load_sample_images().images
    names = []
    for index in range(FILES):
        top, left = draws.integers(0, [427 - 375, 640 - 500])
        part = photographs[index % 2][top : top + 375, left : left + 500]
        names.append(f"{index}.jpg")
        Image.fromarray(part).save(folder / names[-1], quality=92)
    return names


def _box(
    width: int, height: int, min_scale: float, *draws: float
) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the crop that ``resized_crop`` makes."""
    area, ratio = (
        width * height * (min_scale + (1 - min_scale) * draws[0]),
        (4 / 3) ** (2 * draws[1] - 1),
    )
    w, h = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    return (width - w) * draws[2], (height - h) * draws[3], w, h


def _pillow(content: bytes) -> Image.Image:
    with open_file(io.BytesIO(content)) as image:  # type: ignore[arg-type]
        return convert(image, 3)


def _pillow_crop(image: Image.Image, box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    left, top, width, height = box
    edges = (left, top, left + width, top + height)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=edges))


def _libraries() -> dict[str, tuple[Decode, Crop]]:
    """Return how each library that is here decodes, and crops with antialiasing."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resized_crop as crop

    def torchvision(content: bytes) -> torch.Tensor:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        decoded: torch.Tensor = decode_jpeg(data, ImageReadMode.RGB)
        return decoded

    def torchvision_crop(image: Any, box: tuple[float, float, float, float]) -> object:
        left, top, width, height = (round(value) for value in box)
        return crop(image, top, left, height, width, [SIDE, SIDE], InterpolationMode.BICUBIC, True)

    found: dict[str, tuple[Decode, Crop]] = {
        "Pillow": (_pillow, _pillow_crop),
        "torchvision": (torchvision, torchvision_crop),
    }
    cv2, simplejpeg = _optional("cv2"), _optional("simplejpeg")
    if cv2 is not None:

        def opencv(content: bytes) -> Any:
            return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)

        def opencv_crop(image: Any, box: tuple[float, float, float, float]) -> object:
            left, top, width, height = (round(value) for value in box)
            part = image[top : top + height, left : left + width]
            return cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

        found["OpenCV"] = opencv, opencv_crop
        if simplejpeg is not None:
            found["simplejpeg, OpenCV"] = simplejpeg.decode_jpeg, opencv_crop
    return found


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
