"""Which test images a classifier is surely wrong about, and what they look like."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from semimae.data.reader import ImageReader
from semimae.data.store import Prepared, Rows
from semimae.options.data import CellData
from semimae.types import Frozen

MOST = 16
MAX_SIDE = 96  # pixels; enough to see what is there, and little enough for each cell of a grid


class Mistake(Frozen):
    """An image that is taken for another class."""

    name: str
    true: int
    predicted: int
    confidence: float  # probability of the predicted class
    true_probability: float
    png: str  # the picture, at most MAX_SIDE pixels wide, in base64


def most_confident_mistakes(
    probabilities: NDArray[np.float64], prepared: Prepared, config: CellData, rows: Rows
) -> list[Mistake]:
    """Return at most ``MOST`` mistakes, the surest first.

    Args:
        probabilities: ``[N, classes]``, rows sum to 1.
        prepared: The images and their true classes.
        config: How a model is shown the images.
        rows: ``[N]``, which images.
    """
    labels, predicted = prepared.labels[rows], probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:MOST]
    pictures = _pictures(prepared, config, rows[surest])
    return [
        Mistake(
            name=prepared.names[rows[i]],
            true=int(labels[i]),
            predicted=int(predicted[i]),
            confidence=float(probabilities[i, predicted[i]]),
            true_probability=float(probabilities[i, labels[i]]),
            png=png,
        )
        for i, png in zip(surest, pictures, strict=True)
    ]


def _pictures(prepared: Prepared, config: CellData, rows: Rows) -> list[str]:
    if not len(rows):
        return []
    images = ImageReader(prepared, config, rows, torch.device("cpu")).whole(rows)  # [B, C, S, S]
    return [_png(pixels) for pixels in images.permute(0, 2, 3, 1).numpy()]


def _png(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
