import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from semimae.engine.diagnostics import (
    MAX_CLASS_CURVES,
    measure_gradients,
    measure_pseudo_labels,
    term_gradients,
)
from semimae.engine.meter import Meter
from semimae.types import PseudoLabels

image = st.tuples(
    st.integers(0, 3),  # pseudo label
    st.integers(-1, 3),  # true class, -1: unknown
    st.floats(0.25, 1),  # confidence
    st.sampled_from([0.0, 0.25, 1.0]),  # weight
)


def measure(
    batches: list[list[tuple[int, int, float, float]]], num_classes: int = 4
) -> dict[str, float]:
    meter = Meter()
    for batch in batches:
        labels, classes, confidence, weight = zip(*batch, strict=True)
        pseudo = PseudoLabels(torch.tensor(labels), torch.tensor(confidence), torch.tensor(weight))
        measure_pseudo_labels(meter, pseudo, torch.tensor(classes), num_classes)
    return meter.flush()


@settings(deadline=None)
@given(st.lists(st.lists(image, min_size=3, max_size=3), min_size=1, max_size=4))
def test_pseudo_labels_are_counted_as_in_a_plain_loop(
    batches: list[list[tuple[int, int, float, float]]],
) -> None:
    found = measure(batches)
    images = [entry for batch in batches for entry in batch]
    n = len(images)
    assert found["pseudo/coverage"] == pytest.approx(sum(w for *_, w in images) / n)
    assert found["pseudo/confidence"] == pytest.approx(sum(c for _, _, c, _ in images) / n)
    for c in range(4):
        share = sum(w for label, _, _, w in images if label == c) / n
        assert found[f"pseudo/class_coverage/{c}"] == pytest.approx(share)
    known = [entry for entry in images if entry[1] >= 0]
    if known:
        right = sum(label == true for label, true, _, _ in known)
        assert found["pseudo/accuracy_all"] == pytest.approx(right / len(known))
    else:
        assert "pseudo/accuracy_all" not in found
    used = sum(w for *_, w in known)
    if used:
        right = sum(w for label, true, _, w in known if label == true)
        assert found["pseudo/accuracy"] == pytest.approx(right / used)
    else:
        assert "pseudo/accuracy" not in found


@pytest.mark.parametrize(
    ("num_classes", "shown"), [(MAX_CLASS_CURVES, True), (MAX_CLASS_CURVES + 1, False)]
)
def test_many_classes_get_no_curves(num_classes: int, shown: bool) -> None:
    found = measure([[(0, 0, 0.5, 1.0)]], num_classes)
    assert any(name.startswith("pseudo/class_coverage") for name in found) == shown


class Encoder(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1, bias=False)
        self.classifier = nn.Linear(2, 1, bias=False)
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.mim = Encoder(), nn.Linear(2, 1, bias=False)


def gradients(losses: dict[str, torch.Tensor], model: TwoParts) -> dict[str, float]:
    meter = Meter()
    measure_gradients(meter, term_gradients(losses, model))  # type: ignore[arg-type]
    return meter.flush()


def test_gradients_of_the_encoder_are_compared() -> None:
    model = TwoParts()
    w, other, head = (
        part.weight[0] for part in (model.backbone, model.mim, model.backbone.classifier)
    )
    losses = {
        "supervised": 5 * w[0] + 100 * other[0] + 100 * head[1],
        "consistency": 3 * w[0] + 4 * w[1],
        "reconstruction": 2 * w[1] + 100 * other[1],
    }
    found = gradients(losses, model)
    assert found == pytest.approx(
        {
            "gradient/supervised": 5.0,
            "gradient/consistency": 5.0,
            "gradient/reconstruction": 2.0,
            "gradient/cosine": 4 / 5,
        }
    )
    losses["supervised"].backward()  # the graph is still there
    assert model.backbone.weight.grad is not None
    assert model.backbone.weight.grad.tolist() == [[5.0, 0.0]]


def test_opposite_terms_have_a_negative_cosine() -> None:
    model = TwoParts()
    pull = model.backbone.weight.sum()
    found = gradients({"consistency": pull, "reconstruction": -7 * pull}, model)
    assert found["gradient/cosine"] == pytest.approx(-1)


def test_a_term_without_gradient_has_no_direction() -> None:
    model = TwoParts()
    losses = {
        "consistency": model.mim.weight.sum(),
        "reconstruction": model.backbone.weight.sum(),
    }
    found = gradients(losses, model)
    assert found == pytest.approx(
        {"gradient/consistency": 0.0, "gradient/reconstruction": math.sqrt(2)}
    )


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out(factor: float) -> None:
    model = TwoParts()
    pull = model.backbone.weight.sum()
    found = gradients({"consistency": factor * pull, "reconstruction": pull}, model)
    assert found == pytest.approx({"gradient/reconstruction": math.sqrt(2)})
