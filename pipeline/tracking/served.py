"""The model that MLflow serves. MLflow stores a copy of this file, so it imports nothing of ours.

It must process images exactly as `predict` does; a test compares the two.
"""

import base64
import binascii
import io
import sys
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import interpolate

BATCH = 64  # images per pass
FORMATS = ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"]


class Refused(MlflowException):  # type: ignore[misc]  # MLflow has no types
    """A request that cannot be answered: status 400, and one line with the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        return str(self)

    @message.setter
    def message(self, value: str) -> None:
        """Ignore changes: MLflow's server would prepend the whole request."""


class ImageClassifier(PythonModel):  # type: ignore[misc]
    """Classifies images of any size, on the CPU, for which the program was exported.

    An image is an encoded file in base64, the bytes of a file, or pixels ``[H, W, C]`` in 0..255.
    """

    cache_size: int | None = None  # shorter side of the images that `prepare` scaled, if it did
    white_level: int | None = None  # white in images of more than 8 bits, if not 65535

    def load_context(self, context: Any) -> None:
        config = context.model_config
        sys.stderr.write(f"{config['about']}\n")
        self.program = torch.export.load(context.artifacts["program"]).module()
        self.names, self.size, self.channels = config["names"], config["size"], config["channels"]
        self.share, self.cache_size = config["share"], config["cache_size"]
        self.white_level = config["white_level"]

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> pd.DataFrame:
        given: Any = model_input  # MLflow warns about type hints that allow more than that
        if isinstance(given, dict | pd.DataFrame):  # the signature's one name can make it a table
            given = given["image"]
        images = list(np.atleast_1d(np.asarray(given)))
        if not images:
            raise Refused("the request contains no images")
        pixels = [self._prepared(image, f"image {place}") for place, image in enumerate(images)]
        parts = [self._probabilities(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        probabilities = torch.cat(parts).numpy()  # [B, classes]
        return pd.DataFrame(
            {
                "class": [self.names[index] for index in probabilities.argmax(axis=1)],
                "probability": probabilities.max(axis=1),
                "probabilities": probabilities.tolist(),
            }
        )

    @torch.no_grad()
    def _probabilities(self, pixels: list[np.ndarray]) -> torch.Tensor:
        logits: torch.Tensor = self.program(torch.from_numpy(np.stack(pixels)))
        return logits.double().softmax(dim=-1)

    def _prepared(self, image: Any, where: str) -> np.ndarray:
        """Return the model's input for an image, ``[S, S, C]``."""
        if isinstance(image, str | bytes):
            return self._scaled(self._decoded(image, where))
        return self._scaled(self._checked(image, where))

    def _decoded(self, data: str | bytes, where: str) -> np.ndarray:
        """Decode a file, as base64 text or as bytes, to ``[H, W, C]``."""
        if isinstance(data, str):
            try:  # browsers prepend a header, and line breaks are common
                text = "".join(data.rpartition("base64,")[2].split())
                data = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise Refused(
                    f"{where} is text, but not base64; encode the file's content in base64"
                ) from None
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata
                with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                    if file.width * file.height > (Image.MAX_IMAGE_PIXELS or np.inf):
                        raise ValueError(f"more than {Image.MAX_IMAGE_PIXELS} pixels")
                    image = converted(file, self.channels, self.white_level)
        except UnidentifiedImageError:
            if data[4:8] == b"ftyp":  # the format of phones
                raise Refused(f"{where} is HEIC or AVIF; send it as JPEG or PNG") from None
            raise Refused(f"{where} is not an image of a known format") from None
        except Exception as error:  # damaged data can make Pillow raise any exception
            reason = f"{error}".partition("\n")[0] or type(error).__name__
            raise Refused(f"{where} cannot be decoded: {reason}") from None
        return np.asarray(image).reshape(image.height, image.width, self.channels)

    def _checked(self, image: Any, where: str) -> np.ndarray:
        """Check pixels and return them as uint8 ``[H, W, C]``."""
        wanted = f"send pixels [height, width, {self.channels}] or a file in base64"
        try:
            boxed = isinstance(image, np.ndarray) and image.dtype == object  # numbers from JSON
            pixels = np.asarray(image.tolist() if boxed else image)
        except ValueError:
            raise Refused(f"{where} has rows of different lengths; {wanted}") from None
        if pixels.ndim != 3 or pixels.shape[2] != self.channels or not pixels.size:
            raise Refused(f"{where} has the shape {list(pixels.shape)}; {wanted}")
        if pixels.dtype.kind not in "iuf":
            raise Refused(f"{where} contains values that are not numbers; {wanted}")
        wrong = pixels[~((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels)))]
        if wrong.size:
            raise Refused(
                f"{where} has the value {wrong[0]}; send integers in 0..255, as in image files, "
                "without scaling or normalizing them"
            )
        return pixels.astype(np.uint8)

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Scale the central square of an image ``[H, W, C]`` to ``[S, S, C]``, as in training."""
        if self.share != 1 and self.cache_size is not None:  # as `prepare` scaled the test images
            height, width = pixels.shape[:2]
            scale = min(1.0, self.cache_size / min(width, height))
            size = (round(width * scale), round(height * scale))
            pixels = resized(pixels, size, (0, 0, width, height))
        height, width = pixels.shape[:2]
        side = min(width, height) * self.share
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        if self.share == 1:  # small images, which stage `prepare` scales with Pillow
            return resized(pixels, (self.size, self.size), box)
        left, top = round(box[0]), round(box[1])
        right, bottom = max(left + 1, round(box[2])), max(top + 1, round(box[3]))
        part = torch.from_numpy(np.array(pixels[top:bottom, left:right])).permute(2, 0, 1)
        sizes = (self.size, self.size)
        whole = interpolate(part.unsqueeze(0), sizes, mode="bicubic", antialias=True)
        return whole.squeeze(0).permute(1, 2, 0).numpy()


def resized(pixels: np.ndarray, size: tuple[int, int], box: Any) -> np.ndarray:
    """Scale a box of an image ``[H, W, C]`` to a size (width, height) with Pillow."""
    channels = pixels.shape[2]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    scaled = image.resize(size, Image.Resampling.BICUBIC, box=box)
    return np.asarray(scaled).reshape(size[1], size[0], channels)


def converted(image: Image.Image, channels: int, white_level: int | None) -> Image.Image:
    """Decode an image fully and return it in mode "L" or "RGB", at its original size."""
    deep = image.mode[0] != "I" and any(
        ";16" in str(tile.args) for tile in getattr(image, "tile", ())
    )
    if white_level is not None and deep:
        raise ValueError("16-bit color cannot be scaled to a white level; save it with 8 bits")
    image.load()
    with suppress(Exception):  # the pixels of a file with damaged EXIF data may be fine
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels outside 0..65535; save it with 8 or 16 bits")
        white = white_level or 65535
        scaled = (values * 255 + white // 2) // white
        image = Image.fromarray(scaled.clip(max=255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("float pixels have no defined range; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if channels == 1 else "RGB")


set_model(ImageClassifier())
