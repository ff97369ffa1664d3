import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from support import changed_params

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.evaluation.mistakes import MAX_SIDE, MOST, most_confident_mistakes

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
    found = most_confident_mistakes(probabilities, digits, CONFIG, rows)
    wrong = []
    for row, guess in zip(rows.tolist(), probabilities.tolist(), strict=True):
        best = guess.index(max(guess))
        true = int(digits.labels[row])
        if best != true:
            wrong.append((max(guess), guess[true], best, true, digits.names[row]))
    wrong.sort(reverse=True)
    ours = [(m.confidence, m.true_probability, m.predicted, m.true, m.name) for m in found]
    assert ours == wrong[:MOST]
    assert len(ours) == MOST


def test_the_picture_is_the_image(digits: Prepared, digits_split: Split) -> None:
    rows = digits_split.test(digits)
    found = most_confident_mistakes(random_probabilities(len(rows)), digits, CONFIG, rows)
    assert digits.images is not None
    for mistake in found:
        row = digits.names.index(mistake.name)
        np.testing.assert_array_equal(decoded(mistake.png), digits.images[row, ..., 0])


def test_no_mistake_gives_none(digits: Prepared, digits_split: Split) -> None:
    rows = digits_split.test(digits)
    sure = np.eye(10)[digits.labels[rows]]
    assert most_confident_mistakes(sure, digits, CONFIG, rows) == []


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
    (mistake,) = most_confident_mistakes(guess, large, config, rows)
    picture = decoded(mistake.png)
    assert picture.shape == (MAX_SIDE, MAX_SIDE) + ((3,) if channels == 3 else ())
    assert (picture > 127).mean() == pytest.approx(0.25, abs=0.01)
