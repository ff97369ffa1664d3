"""The test images that a classifier gets wrong with the highest confidence."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from semimae.data.loader import ImageReader
from semimae.data.store import Prepared, Rows
from semimae.options.data import CellData
from semimae.types import Frozen

MOST = 16
MAX_SIDE = 96  # pixels; large enough to recognize, small enough to store for every cell of a grid


class Mistake(Frozen):
    """A misclassified image."""

    name: str
    true: int
    predicted: int
    confidence: float  # probability of the predicted class
    true_probability: float
    png: str  # the image in base64, at most MAX_SIDE pixels wide and high


def most_confident_mistakes(
    probabilities: NDArray[np.float64], prepared: Prepared, config: CellData, rows: Rows
) -> list[Mistake]:
    """Return at most ``MOST`` mistakes, most confident first.

    Args:
        probabilities: ``[N, classes]``, rows sum to 1.
        prepared: The images and their true classes.
        config: How images are presented to a model.
        rows: ``[N]``, the rows of the images.
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
