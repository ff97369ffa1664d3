"""Small pictures for pages that open offline."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return pixels ``[H, W, C]``, of one channel or three, as a picture."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def thumbnail(picture: Image.Image, side: int) -> str:
    """Return a picture, at most ``side`` pixels wide and high, as a JPEG in base64."""
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
