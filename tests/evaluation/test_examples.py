import base64
import dataclasses
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support import changed_params

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.evaluation.examples import BUDGET, MAX_SIDE, examples
from semimae.evaluation.metrics import MOST

CONFIG = changed_params().data


def decoded(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def random_probabilities(num_images: int) -> np.ndarray:
    draws = np.random.default_rng(0).random((num_images, 10)) ** 4
    probabilities: np.ndarray = draws / draws.sum(axis=1, keepdims=True)
    return probabilities


def test_the_surest_mistakes_come_first(digits: Prepared, digits_split: Split) -> None:
    rows = digits_split.test(digits)
    probabilities = random_probabilities(len(rows))
    found = examples(probabilities, digits, CONFIG, rows)
    wrong = []
    for row, guess in zip(rows.tolist(), probabilities.tolist(), strict=True):
        best = guess.index(max(guess))
        true = int(digits.labels[row])
        if best != true:
            wrong.append((max(guess), guess[true], best, true, digits.names[row]))
    wrong.sort(reverse=True)
    ours = [(m.confidence, m.true_probability, m.predicted, m.true, m.name) for m in found]
    assert ours[:MOST] == wrong[:MOST]
    surest = sorted(max(p) for p in probabilities.tolist())
    unsure = sorted(m.confidence for m in found)[:MOST]
    assert unsure == surest[:MOST]  # the least certain are among them
    shown = {(m.true, m.predicted) for m in found}
    often = Counter((true, best) for _, _, best, true, _ in wrong).most_common(5)
    assert {pair for pair, _ in often} <= shown
    assert len({m.name for m in found}) == len(found)
    assert sum(len(m.png) for m in found) <= BUDGET


def test_the_picture_is_the_image(digits: Prepared, digits_split: Split) -> None:
    rows = digits_split.test(digits)
    found = examples(random_probabilities(len(rows)), digits, CONFIG, rows)
    assert digits.images is not None
    for example in found:
        row = digits.names.index(example.name)
        np.testing.assert_array_equal(decoded(example.png), digits.images[row, ..., 0])


def test_without_a_mistake_the_least_certain_are_left(
    digits: Prepared, digits_split: Split
) -> None:
    rows = digits_split.test(digits)
    sure = np.eye(10)[digits.labels[rows]]
    found = examples(sure, digits, CONFIG, rows)
    assert [e.name for e in found] == [digits.names[row] for row in rows[:MOST]]


@pytest.mark.parametrize("channels", [1, 3])
def test_large_pictures_are_made_small(
    digits: Prepared, digits_split: Split, channels: int
) -> None:
    rows = digits_split.test(digits)[:1]
    images = np.zeros((len(digits.names), 224, 224, channels), dtype=np.uint8)
    images[:, 56:168, 56:168] = 255  # a quarter of the area
    large = dataclasses.replace(digits, images=images)
    config = CONFIG.model_copy(update={"image_size": 224, "channels": channels})
    guess = np.roll(np.eye(10)[digits.labels[rows]], 1, axis=1)
    (example,) = examples(guess, large, config, rows)
    picture = decoded(example.png)
    assert picture.shape == (MAX_SIDE, MAX_SIDE) + ((3,) if channels == 3 else ())
    assert (picture > 127).mean() == pytest.approx(0.25, abs=0.01)
