import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semimae.losses import consistency_loss, pseudo_label
from semimae.types import PseudoLabels

seeds = st.integers(0, 2**31)


def softmax(values: list[float]) -> list[float]:
    return [math.exp(v) / sum(math.exp(w) for w in values) for v in values]


def logits(seed: int, rows: int = 8, classes: int = 5) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 3


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


@given(seeds, st.floats(0, 1))
def test_pseudo_labels_equal_a_plain_python_loop(seed: int, threshold: float) -> None:
    weak = logits(seed)
    labels, confidence, weight = pseudo_label(weak, threshold)
    for n, row in enumerate(weak.tolist()):
        probabilities = softmax(row)
        best = max(probabilities)
        assert labels[n] == probabilities.index(best)
        assert confidence[n].item() == close(best)
        if abs(best - threshold) > 1e-5:
            assert weight[n] == (best >= threshold)


def test_a_confidence_equal_to_the_threshold_counts() -> None:
    even = torch.zeros(1, 4)
    assert pseudo_label(even, 0.25).weight.tolist() == [1.0]
    assert pseudo_label(even, 0.2500001).weight.tolist() == [0.0]


def test_pseudo_labels_carry_no_gradient() -> None:
    made = pseudo_label(logits(0).requires_grad_(), 0.5)
    assert not any(tensor.requires_grad for tensor in made)


@given(seeds, st.floats(0, 1))
def test_consistency_equals_a_plain_python_loop(seed: int, threshold: float) -> None:
    weak, strong = logits(seed), logits(seed + 1)
    pseudo = pseudo_label(weak, threshold)
    expected = 0.0
    for w, s, kept in zip(weak.tolist(), strong.tolist(), pseudo.weight.tolist(), strict=True):
        probabilities = softmax(w)
        if kept:
            expected -= math.log(softmax(s)[probabilities.index(max(probabilities))])
    # the mean is over all eight images, not over those that are kept
    assert consistency_loss(strong, pseudo).item() == close(expected / 8)


@given(seeds)
def test_fractional_weights_count_by_their_share(seed: int) -> None:
    strong = logits(seed, rows=3)
    weights = [0.0, 0.25, 1.0]
    pseudo = PseudoLabels(torch.tensor([4, 0, 2]), torch.ones(3), torch.tensor(weights))
    terms = [
        -math.log(softmax(row)[label]) for row, label in zip(strong.tolist(), [4, 0, 2], strict=True)
    ]
    expected = sum(w * t for w, t in zip(weights, terms, strict=True)) / 3
    assert consistency_loss(strong, pseudo).item() == close(expected)


@given(seeds, st.floats(0, 1))
def test_leaving_rejected_rows_out_changes_neither_loss_nor_gradient(
    seed: int, threshold: float
) -> None:
    dense = logits(seed + 1).requires_grad_()
    pseudo = pseudo_label(logits(seed), threshold)
    loss = consistency_loss(dense, pseudo)
    (gradient,) = torch.autograd.grad(loss, dense)
    rows = pseudo.weight.nonzero().squeeze(1)
    sparse_loss = consistency_loss(dense[rows], pseudo, rows)
    (sparse_gradient,) = torch.autograd.grad(sparse_loss, dense)
    torch.testing.assert_close(sparse_loss, loss)
    torch.testing.assert_close(sparse_gradient, gradient)


def test_nothing_confident_is_a_zero_loss_with_a_gradient_of_zeros() -> None:
    pseudo = pseudo_label(logits(0), 1.0)
    assert not pseudo.weight.any()
    strong = logits(1).requires_grad_()
    loss = consistency_loss(strong, pseudo)
    loss.backward()
    assert loss.item() == 0
    assert strong.grad is not None
    assert not strong.grad.any()


def test_half_precision_logits_are_scored_in_full_precision() -> None:
    weak, strong = logits(0).bfloat16(), logits(1).bfloat16()
    pseudo = pseudo_label(weak, 0.5)
    assert pseudo.confidence.dtype == torch.float32
    loss = consistency_loss(strong, pseudo)
    assert loss.dtype == torch.float32
    full = consistency_loss(strong.float(), pseudo_label(weak.float(), 0.5))
    assert loss.item() == pytest.approx(full.item())
