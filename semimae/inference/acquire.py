"""Which images to label next."""

import numpy as np
from numpy.typing import NDArray

from semimae.data.split import Split
from semimae.data.store import Prepared, Rows
from semimae.random import uniform

Floats = NDArray[np.float64]


def candidates(prepared: Prepared, split: Split) -> Rows:
    """Return the rows that may be labeled: ``[N]``, never validation or test rows.

    These are the images without a label. Where all have one, as in benchmarks, they are the
    training images whose label is not used: a rehearsal.
    """
    rows = np.setdiff1d(split.unlabeled(prepared), np.asarray(split.labeled, dtype=np.int64))
    unknown = rows[prepared.labels[rows] < 0]
    return unknown if len(unknown) else rows


def badge(features: Floats, probabilities: Floats, count: int, seed: int) -> Rows:
    """Choose images that the model is unsure of and that differ from each other.

    Each image is represented by the gradient that it would give the last layer, were the model's
    own answer its label: ``(p - onehot(argmax p)) * feature``. Its length grows with the doubt; its
    direction says what is doubted. Images are drawn as k-means++ draws its centers, with a
    chance that grows with the squared distance to the nearest image that was drawn before. The
    first is the one with the longest gradient.

    Args:
        features: ``[N, D]``, what the last layer sees.
        probabilities: ``[N, classes]``.
        count: How many to choose; no more than N are.
        seed: Key of the draws.

    Returns:
        Their places ``[min(count, N)]``, in the order of the draws.

    Source: arXiv:1906.03671 (BADGE), algorithm 1.
    """
    error = probabilities.copy()
    error[np.arange(len(error)), error.argmax(axis=1)] -= 1.0
    # |e x f|^2 = |e|^2 |f|^2, and (e x f).(e' x f') = (e.e') (f.f'): the outer products, of
    # classes * D values each, are never made.
    squared = np.square(error).sum(axis=1) * np.square(features).sum(axis=1)  # [N]
    draws = uniform((count,), seed, "badge").double().numpy()
    chosen: list[int] = []
    nearest = squared.copy()  # [N], squared distance to the nearest that was chosen
    for draw in draws[: len(squared)]:
        if not chosen:
            place = int(nearest.argmax())
        elif nearest.sum() > 0:
            reach = nearest.cumsum()
            place = int(np.searchsorted(reach[:-1], draw * reach[-1], side="right"))
        else:  # all that remain equal one that was chosen
            place = int(np.setdiff1d(np.arange(len(squared)), chosen)[0])
        chosen.append(place)
        dots = (error @ error[place]) * (features @ features[place])
        distance = np.maximum(squared + squared[place] - 2 * dots, 0.0)
        nearest = distance if len(chosen) == 1 else np.minimum(nearest, distance)
        nearest[chosen] = 0.0  # rounding must not choose an image twice
    return np.array(chosen, dtype=np.int64)
