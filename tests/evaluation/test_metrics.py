import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semimae.evaluation.metrics import (
    Estimate,
    expected_calibration_error,
    proportion,
    score,
)

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def predictions(
    num_images: int = 60, num_classes: int = 7, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_images, num_classes)) * 2
    labels = rng.integers(0, num_classes, num_images)
    logits[np.arange(num_images), labels] += 1.5
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels


def plain_ece(confidence: list[float], correct: list[bool]) -> float:
    total = 0.0
    for i in range(15):
        low, high = i / 15, (i + 1) / 15
        inside = [
            (c, right)
            for c, right in zip(confidence, correct, strict=True)
            if low <= c < high or (i == 14 and c == 1)
        ]
        if inside:
            mean_confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(mean_confidence - accuracy)
    return total


def test_bins_hold_the_images_of_their_confidence() -> None:
    probabilities, labels = predictions(num_images=200)
    bins = score(probabilities, labels).calibration
    assert len(bins) == 15
    assert sum(b.num_images for b in bins) == 200
    for i, found in enumerate(bins):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
            if i / 15 <= max(row) < (i + 1) / 15
        ]
        assert found.num_images == len(inside)
        if inside:
            assert found.confidence == pytest.approx(sum(c for c, _ in inside) / len(inside))
            assert found.accuracy == pytest.approx(sum(right for _, right in inside) / len(inside))
        else:
            assert (found.confidence, found.accuracy) == (0, 0)


# --- Wilson's interval


@given(counts)
def test_interval_equals_wilson_s_formula(count: tuple[int, int]) -> None:
    k, n = count
    z = 1.959963984540054
    p = k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ours = proportion(k, n)
    assert ours.value == pytest.approx(p)
    assert ours.low == pytest.approx(center - half, abs=1e-9)
    assert ours.high == pytest.approx(center + half, abs=1e-9)


@given(counts)
def test_the_value_lies_inside_its_interval(count: tuple[int, int]) -> None:
    ours = proportion(*count)
    assert -1e-12 <= ours.low <= ours.value + 1e-12
    assert ours.value - 1e-12 <= ours.high <= 1 + 1e-12


def test_nothing_is_known_without_a_trial() -> None:
    assert proportion(0, 0) == Estimate(value=0.0, low=0.0, high=1.0)


# --- calibration


@given(st.lists(st.tuples(st.floats(0.001, 1), st.booleans()), min_size=1, max_size=80))
def test_calibration_error_equals_a_plain_loop(pairs: list[tuple[float, bool]]) -> None:
    # on an edge between two bins, rounding decides: keep away from it
    pairs = [(c, right) for c, right in pairs if c == 1 or abs(c * 15 - round(c * 15)) > 1e-9]
    if not pairs:
        return
    confidence, correct = [c for c, _ in pairs], [right for _, right in pairs]
    ours = expected_calibration_error(np.array(confidence), np.array(correct))
    assert ours == pytest.approx(plain_ece(confidence, correct), abs=1e-9)


def test_a_perfectly_calibrated_classifier_has_no_error() -> None:
    confidence = np.array([0.75] * 4 + [1.0] * 2)
    correct = np.array([True, True, True, False, True, True])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0)
    assert expected_calibration_error(confidence, ~correct) == pytest.approx((4 * 0.5 + 2) / 6)


def test_the_interval_of_the_calibration_error_is_fixed_and_holds_the_value() -> None:
    first, second = score(*predictions()), score(*predictions())
    assert first == second
    assert first.ece.low < first.ece.value < first.ece.high
    confidence = predictions()[0].max(axis=1)
    correct = predictions()[0].argmax(axis=1) == predictions()[1]
    assert first.ece.value == pytest.approx(plain_ece(confidence.tolist(), correct.tolist()))


# --- scores


def test_scores_equal_plain_loops() -> None:
    probabilities, labels = predictions()
    scores = score(probabilities, labels)
    table = [[0] * 7 for _ in range(7)]
    top5 = nll = 0.0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        table[label][row.index(max(row))] += 1
        top5 += sorted(row, reverse=True).index(row[label]) < 5
        nll -= math.log(row[label])
    assert scores.num_images == 60
    assert scores.confusion == table
    assert scores.nll == pytest.approx(nll / 60)
    assert scores.top5 is not None
    assert scores.top5.value == pytest.approx(top5 / 60)
    hits = sum(table[c][c] for c in range(7))
    assert scores.top1 == proportion(hits, 60)
    assert 0 < hits < 60
    assert [e.value for e in scores.per_class] == pytest.approx(
        [table[c][c] / sum(table[c]) for c in range(7)]
    )


def test_rows_of_the_confusion_are_true_classes() -> None:
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3]])
    scores = score(probabilities, np.array([0, 1, 0]))
    assert scores.confusion == [[1, 1], [0, 1]]
    assert [e.value for e in scores.per_class] == [0.5, 1.0]


def test_a_class_without_images_counts_as_zero() -> None:
    probabilities = np.full((4, 3), 1 / 3)
    scores = score(probabilities, np.array([0, 0, 1, 1]))
    assert len(scores.per_class) == 3
    assert scores.per_class[2] == Estimate(value=0.0, low=0.0, high=1.0)
    assert [sum(row) for row in scores.confusion] == [2, 2, 0]


@pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_of_few_classes_says_nothing(num_classes: int, has_top5: bool) -> None:
    scores = score(*predictions(num_classes=num_classes))
    assert (scores.top5 is not None) == has_top5


def test_a_class_that_is_ruled_out_costs_a_finite_loss() -> None:
    scores = score(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    assert scores.nll == pytest.approx((-math.log(1e-12) - math.log(0.5)) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_images_does_not_matter(seed: int) -> None:
    probabilities, labels = predictions(30, 6, seed)
    order = np.random.default_rng(seed).permutation(30)
    one, other = score(probabilities, labels), score(probabilities[order], labels[order])
    assert (one.top1, one.top5, one.confusion) == (other.top1, other.top5, other.confusion)
    assert one.ece.value == pytest.approx(other.ece.value)


def test_an_interval_always_holds_its_share_and_stays_in_the_unit_range() -> None:
    for trials in range(1, 1200, 7):
        for successes in {0, 1, trials // 2, trials - 1, trials}:
            e = proportion(successes, trials)
            assert 0 <= e.low <= e.value <= e.high <= 1
