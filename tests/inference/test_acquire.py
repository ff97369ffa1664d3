"""Choosing what to label: BADGE against its definition, written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.inference.acquire import badge, candidates
from semimae.random import uniform


def explicit(features: np.ndarray, logits: np.ndarray, count: int, seed: int) -> list[int]:
    """BADGE with gradients by autograd and k-means++ by the book."""
    gradients = []
    for feature, logit in zip(features, logits, strict=True):
        weight = torch.zeros(len(logit), len(feature), dtype=torch.float64, requires_grad=True)
        scores = torch.from_numpy(logit) + weight @ torch.from_numpy(feature)
        torch.nn.functional.cross_entropy(scores, scores.argmax()).backward()
        assert weight.grad is not None
        gradients.append(weight.grad.flatten().numpy())
    chosen = [int(np.argmax([np.linalg.norm(g) for g in gradients]))]
    for draw in uniform((count,), seed, "badge").double().tolist()[1:]:
        distances = [min(np.sum((g - gradients[c]) ** 2) for c in chosen) for g in gradients]
        reached = [sum(distances[: place + 1]) for place in range(len(distances))]
        goal = draw * reached[-1]
        chosen.append(next(place for place, at in enumerate(reached) if at > goal))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_it_is_k_means_plus_plus_on_gradients(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, logits = rng.normal(size=(30, 6)), rng.normal(size=(30, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = badge(features, probabilities, 8, seed)
    assert chosen.tolist() == explicit(features, logits, 8, seed)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 99), st.booleans())
def test_no_image_is_chosen_twice(n: int, count: int, seed: int, copies: bool) -> None:
    rng = np.random.default_rng(seed)
    features, probabilities = rng.normal(size=(n, 3)), rng.dirichlet(np.ones(3), size=n)
    if copies:
        features[:], probabilities[:] = features[0], probabilities[0]
    chosen = badge(features, probabilities, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(n, count)
    assert set(chosen.tolist()) <= set(range(n))


def test_copies_and_certain_images_are_represented_once() -> None:
    """Ten certain images, whose gradients are nothing, and five in doubt, four of them the same."""
    certain, doubt = [0.999998, 1e-6, 1e-6], [0.4, 0.35, 0.25]
    probabilities = np.array([certain] * 10 + [doubt] * 5)
    features = np.ones((15, 2))
    features[14] = [-1.0, 1.0]
    for seed in range(20):
        chosen = badge(features, probabilities, 3, seed).tolist()
        kinds = ["certain" if place < 10 else "copy" if place < 14 else "other" for place in chosen]
        assert sorted(kinds) == ["certain", "copy", "other"]
        assert chosen[0] >= 10  # the longest gradient comes first


def test_candidates_are_training_images_without_a_label(
    digits: Prepared, digits_split: Split
) -> None:
    rows = candidates(digits, digits_split)  # all digits are labeled: a rehearsal
    assert set(digits.splits[rows].tolist()) == {"train"}
    assert not {*digits_split.labeled, *digits_split.val} & set(rows.tolist())
    assert len(rows) == digits_split.num_unlabeled - len(digits_split.labeled)
    some = digits.labels.copy()
    some[rows[:7]] = -1  # images whose label nobody knows come alone
    assert candidates(_with_labels(digits, some), digits_split).tolist() == rows[:7].tolist()


def _with_labels(prepared: Prepared, labels: np.ndarray) -> Prepared:
    return Prepared(prepared.info, prepared.names, labels, prepared.splits, prepared.images)
