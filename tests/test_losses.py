import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semimae.losses import consistency_loss
from semimae.types import PseudoLabels

seeds = st.integers(0, 2**31)


def softmax(values: list[float]) -> list[float]:
    return [math.exp(v) / sum(math.exp(w) for w in values) for v in values]


def cross_entropy(row: list[float], label: int) -> float:
    return -math.log(softmax(row)[label])


def draw(seed: int, rows: int = 8, classes: int = 5) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 3


def draw_labels(seed: int, threshold: float = 0.5, mixed: bool = False) -> PseudoLabels:
    """Random labels; confidences below the threshold have no weight."""
    source = torch.Generator().manual_seed(seed)
    confidence = torch.rand(8, generator=source)
    labels, other = torch.randint(0, 5, (2, 8), generator=source)
    weight = (confidence >= threshold).float()
    if not mixed:
        return PseudoLabels(labels, confidence, weight)
    return PseudoLabels(labels, confidence, weight, other, torch.rand(8, generator=source))


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


@given(seeds, st.floats(0, 1))
def test_consistency_equals_a_plain_python_loop(seed: int, threshold: float) -> None:
    logits, pseudo = draw(seed), draw_labels(seed, threshold)
    expected = 0.0
    for row, label, confidence in zip(
        logits.tolist(), pseudo.labels.tolist(), pseudo.confidence.tolist(), strict=True
    ):
        if confidence >= torch.tensor(threshold).item():
            expected += cross_entropy(row, label)
    # the mean is over all eight images, not over those that are kept
    assert consistency_loss(logits, pseudo).item() == close(expected / 8)


@given(seeds)
def test_fractional_weights_count_by_their_share(seed: int) -> None:
    logits, pseudo = draw(seed), draw_labels(seed)._replace(weight=torch.linspace(0, 1, 8))
    expected = sum(
        i / 7 * cross_entropy(row, label)
        for i, (row, label) in enumerate(zip(logits.tolist(), pseudo.labels.tolist(), strict=True))
    )
    assert consistency_loss(logits, pseudo).item() == close(expected / 8)


@given(seeds)
def test_a_mixed_image_has_two_labels_in_its_shares(seed: int) -> None:
    logits, pseudo = draw(seed), draw_labels(seed, mixed=True)
    assert pseudo.other_labels is not None
    assert pseudo.share is not None
    expected = 0.0
    for row, first, second, share, weight in zip(
        logits.tolist(),
        pseudo.labels.tolist(),
        pseudo.other_labels.tolist(),
        pseudo.share.tolist(),
        pseudo.weight.tolist(),
        strict=True,
    ):
        both = share * cross_entropy(row, first) + (1 - share) * cross_entropy(row, second)
        expected += weight * both
    assert consistency_loss(logits, pseudo).item() == close(expected / 8)


@pytest.mark.parametrize("mixed", [False, True])
@given(seeds, st.sampled_from([0.0, 0.3, 0.7, 1.1]))
def test_leaving_rejected_rows_out_changes_neither_loss_nor_gradient(
    mixed: bool, seed: int, threshold: float
) -> None:
    logits, pseudo = draw(seed).requires_grad_(), draw_labels(seed, threshold, mixed)
    loss = consistency_loss(logits, pseudo)
    (gradient,) = torch.autograd.grad(loss, logits)
    rows = pseudo.weight.nonzero().squeeze(1)
    sparse_loss = consistency_loss(logits[rows], pseudo, rows)
    (sparse_gradient,) = torch.autograd.grad(sparse_loss, logits)
    torch.testing.assert_close(sparse_loss, loss)
    torch.testing.assert_close(sparse_gradient, gradient)
    if threshold == 1.1:
        assert loss.item() == 0
        assert not gradient.any()


def test_half_precision_logits_are_scored_in_full_precision() -> None:
    logits, pseudo = draw(1).bfloat16(), draw_labels(0)
    loss = consistency_loss(logits, pseudo)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(consistency_loss(logits.float(), pseudo).item())
