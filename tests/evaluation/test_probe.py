import importlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from support import changed_params

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.infer import infer
from semimae.evaluation.metrics import Scores
from semimae.evaluation.probe import (
    fit_linear,
    knn_probabilities,
    linear_probabilities,
    probe,
    standardize,
)
from semimae.model import model_of
from semimae.options.cell import Cell
from semimae.options.evaluation import LinearProbeConfig

evaluation = importlib.import_module("semimae.evaluation.probe")  # the name is a function's too
L2 = [1e-3, 1e-1, 10.0]


def clusters(
    num_images: int = 90, dim: int = 6, num_classes: int = 4, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    centers = np.random.default_rng(1).normal(size=(num_classes, dim))
    features = centers[labels] + rng.normal(size=(num_images, dim))
    return torch.from_numpy(features), torch.from_numpy(labels)


# --- linear


@pytest.mark.parametrize("l2", L2)
def test_the_linear_classifier_equals_scikit_learn_s(l2: float) -> None:
    """scikit-learn minimizes ``C * sum of losses + |W|^2 / 2``: the same for C = 1 / (l2 * N)."""
    x, y = clusters()
    weight = fit_linear(x, y, 4, l2, max_iter=500)
    reference = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-9, max_iter=5000).fit(x, y)
    ours = linear_probabilities(weight, x).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(x), atol=2e-4)
    # the ridge fixes the weights; the bias only up to a common shift
    np.testing.assert_allclose(weight[:-1].T.numpy(), reference.coef_, atol=2e-3)


@pytest.mark.parametrize("l2", L2)
def test_the_linear_classifier_is_at_the_minimum(l2: float) -> None:
    x, y = clusters()
    weight = fit_linear(x, y, 4, l2, max_iter=500)
    p = linear_probabilities(weight, x).numpy()
    padded = np.c_[x.numpy(), np.ones(len(y))]
    gradient = padded.T @ (p - np.eye(4)[y.numpy()]) / len(y)
    gradient[:-1] += l2 * weight[:-1].numpy()  # the bias, in the last row, is not penalized
    assert np.abs(gradient).max() < 1e-5


def test_the_fit_depends_on_no_random_number() -> None:
    x, y = clusters()
    torch.manual_seed(0)
    first = fit_linear(x.float(), y, 4, 0.1, 50)
    torch.manual_seed(1)
    assert torch.equal(fit_linear(x.float(), y, 4, 0.1, 50), first)


def test_linear_probabilities_by_hand() -> None:
    weight = torch.tensor([[1.0, -1.0], [0.5, 0.25]], dtype=torch.float64)  # the last row: bias
    ours = linear_probabilities(weight, torch.tensor([[2.0]]))
    a, b = math.exp(2.5), math.exp(-1.75)
    assert ours[0].tolist() == pytest.approx([a / (a + b), b / (a + b)])


# --- standardize


def test_standardise_uses_the_reference_alone() -> None:
    reference = np.random.default_rng(0).normal(size=(20, 3)) * [1, 5, 0.1] + [0, 2, -3]
    features = np.random.default_rng(1).normal(size=(4, 3))
    expected = (features - reference.mean(axis=0)) / reference.std(axis=0)
    ours = standardize(torch.from_numpy(features), torch.from_numpy(reference))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


def test_a_constant_feature_stays_finite() -> None:
    reference = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    ours = standardize(reference, reference)
    assert ours.tolist() == [[0, -1], [0, 1]]


# --- nearest neighbors


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (5, 1.0), (1000, 0.5)])
def test_neighbors_equal_a_slow_loop(k: int, temperature: float) -> None:
    bank, bank_labels = clusters(30)
    queries, _ = clusters(10, seed=2)
    ours = knn_probabilities(queries, bank, bank_labels, 4, k, temperature)
    for row, query in zip(ours.tolist(), queries.tolist(), strict=True):
        similar = []
        for stored, label in zip(bank.tolist(), bank_labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, stored, strict=True))
            similar.append((dot / (math.hypot(*query) * math.hypot(*stored)), label))
        votes = [0.0] * 4
        for cosine, label in sorted(similar, reverse=True)[:k]:
            votes[label] += math.exp(cosine / temperature)
        assert row == pytest.approx([v / sum(votes) for v in votes], rel=1e-6, abs=1e-12)


def test_neighbors_are_the_same_where_few_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank, labels = clusters(30)
    queries, _ = clusters(10, seed=2)
    whole = knn_probabilities(queries, bank, labels, 4, 5, 0.07)
    for limit in (1, 3 * len(bank)):
        monkeypatch.setattr(evaluation, "_SIMILARITIES", limit)
        parts = knn_probabilities(queries, bank, labels, 4, 5, 0.07)
        torch.testing.assert_close(parts, whole)


def test_the_length_of_a_feature_does_not_matter_to_its_neighbors() -> None:
    bank, labels = clusters(30)
    queries, _ = clusters(5, seed=2)
    one = knn_probabilities(queries, bank, labels, 4, 5, 0.07)
    torch.testing.assert_close(knn_probabilities(queries * 9, bank, labels, 4, 5, 0.07), one)


def test_a_low_temperature_does_not_overflow() -> None:
    bank, labels = clusters(30)
    made = knn_probabilities(bank, bank, labels, 4, 5, 1e-3)
    assert made.isfinite().all()
    assert made.argmax(dim=1).tolist() == labels.tolist()  # each is its own nearest neighbor


# --- the stage


@pytest.fixture(scope="module")
def result(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
) -> dict[str, object]:
    cell = small_cell("semi_mae")
    return probe(model_of(cell, digits), cell, digits, digits_split, probe_config).scores


@pytest.fixture(scope="module")
def probe_config() -> LinearProbeConfig:
    return changed_params().linear_probe


def test_all_protocols_score_all_test_images(
    result: dict[str, object], digits: Prepared, digits_split: Split
) -> None:
    protocols = result["protocols"]
    assert isinstance(protocols, dict)
    assert protocols.keys() == {"classifier", "linear_probe", "knn"}
    num_test = len(digits_split.test(digits))
    counts = np.bincount(digits.labels[digits.splits == "test"]).tolist()
    for scores in protocols.values():
        checked = Scores.model_validate(scores)
        assert checked.num_images == num_test
        assert [sum(row) for row in checked.confusion] == counts
    # even features of random weights tell digits apart, which the random classifier cannot
    assert protocols["linear_probe"]["top1"]["value"] > 0.25
    assert protocols["classifier"]["top1"]["value"] < 0.2


def test_apples_gpu_is_not_asked_for_what_it_lacks(
    result: dict[str, object],
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no float64; on this machine any use of it is an error."""
    monkeypatch.setattr(evaluation, "set_up_device", lambda config: torch.device("mps"))
    cell = small_cell("semi_mae")
    again = probe(model_of(cell, digits), cell, digits, digits_split, probe_config)
    assert again.scores == result


def test_the_strength_is_chosen_on_the_validation_split(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
) -> None:
    cell = small_cell("semi_mae")
    model = model_of(cell, digits)
    strengths = (1e-4, 1e-1, 1.0, 1e4)
    config = probe_config.model_copy(update={"l2": strengths})
    chosen = probe(model, cell, digits, digits_split, config).scores["l2"]

    rows = [np.array(digits_split.labeled), np.array(digits_split.val)]
    (x, _, y), (val_x, _, val_y) = (
        (part.numpy() for part in infer(model, cell, digits, r)) for r in rows
    )
    mean, std = x.mean(axis=0), x.std(axis=0)
    right = {}
    for l2 in strengths:
        reference = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-9, max_iter=5000)
        reference.fit((x - mean) / std, y)
        right[l2] = int((reference.predict((val_x - mean) / std) == val_y).sum())
    assert len(set(right.values())) > 1
    assert chosen == max(strengths, key=lambda l2: (right[l2], l2))  # of equals the stronger


def test_of_equally_good_strengths_the_stronger_is_taken(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
) -> None:
    cell = small_cell("semi_mae")
    for strengths in [(0.1, 0.1000001), (0.1000001, 0.1)]:  # too close to predict differently
        config = probe_config.model_copy(update={"l2": strengths})
        made = probe(model_of(cell, digits), cell, digits, digits_split, config)
        assert made.scores["l2"] == 0.1000001


def test_the_test_set_takes_no_part_in_the_choice(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
) -> None:
    cell = small_cell("semi_mae")
    model = model_of(cell, digits)
    labels = digits.labels.copy()
    test = digits.splits == "test"
    labels[test] = (labels[test] + 1) % 10
    poisoned = Prepared(digits.info, digits.names, labels, digits.splits, digits.images)
    clean, other = (
        probe(model, cell, d, digits_split, probe_config).scores for d in (digits, poisoned)
    )
    assert clean["l2"] == other["l2"]
    for name, scores in clean["protocols"].items():
        moved = np.roll(np.array(scores["confusion"]), 1, axis=0)
        assert other["protocols"][name]["confusion"] == moved.tolist()  # the same predictions


def test_probing_does_not_change_the_model(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
) -> None:
    cell = small_cell("fixmatch")
    model = model_of(cell, digits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe(model, cell, digits, digits_split, probe_config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_predictions_of_each_image_stand_beside_the_scores(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    probe_config: LinearProbeConfig,
) -> None:
    cell, temperature = small_cell("semi_mae"), 0.25
    model = model_of(cell, digits)
    made = probe(model, cell, digits, digits_split, probe_config, temperature)
    for part, rows in (("test", digits_split.test(digits)), ("val", np.array(digits_split.val))):
        said = infer(model, cell, digits, rows).probabilities
        by_hand = said.pow(1 / temperature) / said.pow(1 / temperature).sum(dim=1, keepdim=True)
        predicted, confidence = (
            made.predictions[f"{part}_{n}"] for n in ("predicted", "confidence")
        )
        assert made.predictions[f"{part}_label"].tolist() == digits.labels[rows].tolist()
        assert predicted.tolist() == said.argmax(dim=1).tolist()
        np.testing.assert_allclose(confidence, by_hand.max(dim=1).values, rtol=1e-6)
        right = (predicted == digits.labels[rows]).mean()
    protocols = made.scores["protocols"]
    assert made.scores["temperature"] == temperature
    for name in ("top1", "confusion"):  # a temperature changes no class
        assert protocols["calibrated"][name] == protocols["classifier"][name]
    assert protocols["calibrated"]["nll"] != protocols["classifier"]["nll"]
    assert 0 < right < 1
