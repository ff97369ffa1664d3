"""Test images that are worth a look: surely wrong, hardly decided, or typical of a confusion."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from semimae.data.reader import ImageReader
from semimae.data.store import Prepared, Rows
from semimae.evaluation.metrics import MOST, Example
from semimae.options.data import CellData

MOST_PAIRS = 64  # pairs of classes that are confused
MAX_SIDE = 64  # pixels; enough to see what is there, and little enough for each cell of a grid
BUDGET = 400_000  # letters of all pictures


def examples(
    probabilities: NDArray[np.float64], prepared: Prepared, config: CellData, rows: Rows
) -> list[Example]:
    """Return images worth a look, each once, within the budget.

    First the surest mistakes, then the least certain images, right or wrong, then the surest image
    of each pair of classes that is confused, the most frequent pairs first.

    Args:
        probabilities: ``[N, classes]``, rows sum to 1.
        prepared: The images and their true classes.
        config: How a model is shown the images.
        rows: ``[N]``, which images.
    """
    labels, predicted = prepared.labels[rows], probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")]
    pairs = labels[surest].astype(np.int64) * probabilities.shape[1] + predicted[surest]
    _, first, number = np.unique(pairs, return_index=True, return_counts=True)
    typical = surest[first[np.argsort(-number, kind="stable")]]
    unsure = np.argsort(confidence, kind="stable")
    chosen = list(dict.fromkeys([*surest[:MOST], *unsure[:MOST], *typical[:MOST_PAIRS]]))
    found: list[Example] = []
    for i, png in zip(chosen, _pictures(prepared, config, rows[chosen]), strict=True):
        if sum(len(example.png) for example in found) + len(png) > BUDGET:
            break
        found.append(
            Example(
                name=prepared.names[rows[i]],
                true=int(labels[i]),
                predicted=int(predicted[i]),
                confidence=float(confidence[i]),
                true_probability=float(probabilities[i, labels[i]]),
                png=png,
            )
        )
    return found


def _pictures(prepared: Prepared, config: CellData, rows: Rows) -> list[str]:
    images = ImageReader(prepared, config, rows, torch.device("cpu")).whole(rows)  # [B, C, S, S]
    return [png(pixels) for pixels in images.permute(0, 2, 3, 1).numpy()]


def png(pixels: NDArray[np.uint8]) -> str:
    """Return an image ``[H, W, C]``, made small, as a PNG in base64."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
