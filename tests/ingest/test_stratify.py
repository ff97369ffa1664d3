import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semimae.ingest.stratify import held_out_count, stratified_order
from semimae.types import UserError

CLASS_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def heads(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Rows of each class in the first k rows of the order: ``[n, C]`` for k = 1..n."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = stratified_order(labels, rng.random(len(labels)))
    assert sorted(order.tolist()) == list(range(len(labels)))
    return np.cumsum(labels[order][:, None] == np.arange(len(sizes)), axis=0)


def largest_remainders(sizes: list[int], k: int) -> list[int]:
    """Hamilton's apportionment in whole numbers; ties go to the first."""
    n = sum(sizes)
    counts = [k * size // n for size in sizes]
    remainders = [(-(k * size % n), c) for c, size in enumerate(sizes)]
    for _, c in sorted(remainders)[: k - sum(counts)]:
        counts[c] += 1
    return counts


@given(CLASS_SIZES, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_heads_are_proportional(sizes: list[int], seed: int) -> None:
    n = sum(sizes)
    for k, counts in enumerate(heads(sizes, seed).tolist(), start=1):
        exact = largest_remainders(sizes, k)
        for count, size, share in zip(counts, sizes, exact, strict=True):
            assert count <= math.ceil(k * size / n)
            if k >= len(sizes):
                assert count >= 1
            if k * min(sizes) >= n:  # the smallest class has earned its first row
                assert count >= k * size // n
                assert abs(count - share) <= 1


@given(st.integers(1, 9), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_heads_are_largest_remainders_if_classes_have_one_size(num_classes: int, size: int) -> None:
    sizes = [size] * num_classes
    for k, counts in enumerate(heads(sizes).tolist(), start=1):
        assert counts == largest_remainders(sizes, k)


@given(CLASS_SIZES)
@settings(max_examples=60, deadline=None)
def test_tails_are_proportional(sizes: list[int]) -> None:
    n, total = sum(sizes), np.array(sizes)
    for k, counts in enumerate(heads(sizes), start=1):
        if k * min(sizes) >= n:
            assert (np.abs(total - counts - (n - k) * total / n) < 1).all()


def test_skewed_classes_keep_their_share() -> None:
    # Sorting by (j - 0.5) / n_c gives the large class 150 of the first 150 beyond the first rows.
    counts = heads([1000] + [10] * 100)
    assert counts[99].max() == 1
    assert counts[199].tolist() == [100] + [1] * 100
    assert counts[499, 0] == 250


def test_within_a_class_the_rank_decides() -> None:
    labels = np.array([1, 0, 1, 0, 1, 0])
    order = stratified_order(labels, np.array([3.0, 2.0, 1.0, 1.0, 2.0, 3.0]))
    assert order.tolist() == [3, 2, 1, 4, 5, 0]


def test_no_rows_and_classes_without_rows() -> None:
    assert stratified_order(np.array([], dtype=np.int64), np.array([])).tolist() == []
    assert stratified_order(np.array([7, 3, 7, 3]), np.arange(4)).tolist() == [1, 0, 3, 2]


def test_held_out_count() -> None:
    assert held_out_count(100, 0.2, 10, "data.val_fraction") == 20
    assert held_out_count(100, 0.001, 10, "data.val_fraction") == 1
    assert held_out_count(100, 0.9, 10, "data.val_fraction") == 90
    with pytest.raises(UserError, match=r"data\.val_fraction=0\.91 holds out 91 .* 10 classes"):
        held_out_count(100, 0.91, 10, "data.val_fraction")
