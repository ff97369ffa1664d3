"""Temperatures against a search over a grid, and against the one that labels were drawn with."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from semimae.calibration import MIN_IMAGES, fit_temperature, tempered
from semimae.evaluation.metrics import expected_calibration_error


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, probabilities of a model whose logits are too large, and labels."""
    source = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, 5, generator=source, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=source)
    return logits, logits.softmax(dim=1), labels.squeeze(1)


@pytest.mark.parametrize("count", [30, 200])
def test_it_is_the_most_likely_of_a_fine_grid(count: int) -> None:
    logits, probabilities, labels = drawn(count, 2.0)
    rows = [(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]

    def loss(log_t: float) -> float:
        total = log_t**2 / 2
        for row, label in rows:
            scaled = [value / math.exp(log_t) for value in row]
            total += math.log(sum(map(math.exp, scaled))) - scaled[label]
        return total

    grid = np.arange(-1, 2, 0.01)
    best = grid[np.argmin([loss(value) for value in grid])]
    found = fit_temperature(probabilities, labels)
    assert found is not None
    assert math.log(found) == pytest.approx(best, abs=0.01)


def test_it_finds_the_temperature_and_removes_the_calibration_error() -> None:
    _, probabilities, labels = drawn(20_000, 2.0)
    temperature = fit_temperature(probabilities, labels)
    assert temperature == pytest.approx(2.0, rel=0.03)

    def error(of: Tensor) -> float:
        confidence, predicted = of.max(dim=1)
        return expected_calibration_error(confidence.numpy(), (predicted == labels).numpy())

    assert error(probabilities) > 0.1
    assert error(tempered(probabilities, temperature)) < 0.02


def test_all_right_is_no_reason_to_be_certain() -> None:
    probabilities = torch.full((50, 2), 0.1, dtype=torch.float64)
    probabilities[:, 0] = 0.9
    temperature = fit_temperature(probabilities, torch.zeros(50, dtype=torch.int64))
    assert temperature is not None
    assert 0.9 < tempered(probabilities, temperature)[0, 0] < 0.999


def test_probabilities_of_zero_are_no_obstacle() -> None:
    probabilities = torch.eye(3, dtype=torch.float64).repeat(20, 1)
    labels = torch.arange(60) % 3
    labels[0] = 1
    temperature = fit_temperature(probabilities, labels)
    assert temperature is not None
    assert tempered(probabilities, temperature).isfinite().all()


def test_few_images_fit_nothing() -> None:
    _, probabilities, labels = drawn(MIN_IMAGES - 1, 2.0)
    assert fit_temperature(probabilities, labels) is None
    assert tempered(probabilities, None) is probabilities
