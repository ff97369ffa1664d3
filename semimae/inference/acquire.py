"""Choose the images to label next."""

import numpy as np
from numpy.typing import NDArray

from semimae.data.split import Split
from semimae.data.store import Prepared, Rows
from semimae.random import uniform

Floats = NDArray[np.float64]


def candidates(prepared: Prepared, split: Split) -> Rows:
    """Return the rows ``[N]`` that can be labeled, never validation or test rows.

    These are the images without a label. If all images have one, as in benchmarks, they are the
    training images whose labels are not used.
    """
    rows = np.setdiff1d(split.unlabeled(prepared), np.asarray(split.labeled, dtype=np.int64))
    unknown = rows[prepared.labels[rows] < 0]
    return unknown if len(unknown) else rows


def badge(features: Floats, probabilities: Floats, count: int, seed: int) -> Rows:
    """Choose images that the model is uncertain about and that differ from each other.

    Each image is represented by the gradient of the last layer if the predicted class were the
    label: ``(p - onehot(argmax p)) * feature``. The gradient is longer if the model is less
    certain, and its direction depends on the classes in question. Images are drawn like the centers
    of k-means++: the probability is proportional to the squared distance to the nearest image drawn
    so far. The first image is the one with the longest gradient.

    Args:
        features: ``[N, D]``, inputs of the last layer.
        probabilities: ``[N, classes]``.
        count: Number of images to choose, limited to N.
        seed: Seed of the draws.

    Returns:
        Their indices ``[min(count, N)]``, in the order of the draws.

    Source: arXiv:1906.03671 (BADGE), algorithm 1.
    """
    error = probabilities.copy()
    error[np.arange(len(error)), error.argmax(axis=1)] -= 1.0
    # |e x f|^2 = |e|^2 |f|^2, and (e x f).(e' x f') = (e.e') (f.f'), so the outer products of
    # classes * D values each are never computed.
    squared = np.square(error).sum(axis=1) * np.square(features).sum(axis=1)  # [N]
    draws = uniform((count,), seed, "badge").double().numpy()
    chosen: list[int] = []
    nearest = squared.copy()  # [N], squared distance to the nearest chosen image
    for draw in draws[: len(squared)]:
        if not chosen:
            place = int(nearest.argmax())
        elif nearest.sum() > 0:
            reach = nearest.cumsum()
            place = int(np.searchsorted(reach[:-1], draw * reach[-1], side="right"))
        else:  # all remaining images equal a chosen one
            place = int(np.setdiff1d(np.arange(len(squared)), chosen)[0])
        chosen.append(place)
        dots = (error @ error[place]) * (features @ features[place])
        distance = np.maximum(squared + squared[place] - 2 * dots, 0.0)
        nearest = distance if len(chosen) == 1 else np.minimum(nearest, distance)
        nearest[chosen] = 0.0  # rounding must not choose an image twice
    return np.array(chosen, dtype=np.int64)
