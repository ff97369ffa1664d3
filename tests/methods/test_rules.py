"""Rules against slow references that share no code with them: plain Python, one image at a time."""

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from support import changed_params
from torch.utils._python_dispatch import TorchDispatchMode

from semimae.methods.flexmatch import FlexRule
from semimae.methods.freematch import FreeRule
from semimae.methods.memory import Memory
from semimae.methods.pseudo import fade_in
from semimae.methods.rules import Alignment, FixedRule, class_shares
from semimae.methods.softmatch import SoftRule
from semimae.types import Batch

CLASSES, IMAGES, MOMENTUM = 4, 30, 0.9


def options(rule: str, **changes: object) -> Any:
    """What semi_mae reads of the section ``pseudo_label`` with a rule."""
    section = {f"pseudo_label__{key}": v for key, v in ({"momentum": MOMENTUM} | changes).items()}
    asked = changed_params(method="semi_mae", pseudo_label__rule=rule, **section)
    return asked.cell().options.pseudo_label  # type: ignore[union-attr]


def batches(count: int = 12, size: int = 9) -> list[tuple[list[list[float]], list[int]]]:
    """Return probabilities and the images' places, for several steps."""
    rng = random.Random(0)
    made = []
    for _ in range(count):
        rows = []
        for _ in range(size):
            # a preference for class 0, so that the classes differ in what has been learned
            scores = [rng.gauss(1.5 if c == 0 else 0.0, 2.0) for c in range(CLASSES)]
            total = sum(math.exp(s) for s in scores)
            rows.append([math.exp(s) / total for s in scores])
        made.append((rows, rng.sample(range(IMAGES), size)))
    return made


def as_batch(index: list[int], progress: float = 0.5) -> Batch:
    nothing = torch.empty(0)
    places = torch.tensor(index)
    return Batch(nothing, nothing, nothing, nothing, nothing, nothing, places, progress)


def test_flexmatch_follows_the_latest_confident_prediction_of_every_image() -> None:
    rule = FlexRule(options("flex", threshold=0.8), CLASSES, IMAGES)
    latest: dict[int, int] = {}
    for rows, index in batches():
        counts = Counter(latest.values())
        most = max([*counts.values(), IMAGES - len(latest), 1])
        expected = []
        for row in rows:
            confidence, label = max(row), row.index(max(row))
            learned = counts[label] / most
            expected.append(float(confidence >= 0.8 * learned / (2 - learned)))
        for row, place in zip(rows, index, strict=True):
            if max(row) >= 0.8:
                latest[place] = row.index(max(row))
        weight, _ = rule(torch.tensor(rows), as_batch(index))
        assert weight.tolist() == expected
    assert 0 < len(latest) < IMAGES


def test_freematch_scales_one_running_threshold_by_class() -> None:
    rule = FreeRule(options("free"), CLASSES, IMAGES)
    tau, mean = 1 / CLASSES, [1 / CLASSES] * CLASSES
    kept = 0.0
    for rows, index in batches():
        n = len(rows)
        tau = MOMENTUM * tau + (1 - MOMENTUM) * sum(map(max, rows)) / n
        mean = [
            MOMENTUM * m + (1 - MOMENTUM) * sum(row[c] for row in rows) / n
            for c, m in enumerate(mean)
        ]
        expected = [float(max(row) >= tau * mean[row.index(max(row))] / max(mean)) for row in rows]
        weight, _ = rule(torch.tensor(rows), as_batch(index))
        assert weight.tolist() == expected
        kept += sum(expected) / n
    assert 0 < kept < len(batches())


def test_freematch_fairness_is_the_sum_of_p_log_q_over_classes() -> None:
    rule = FreeRule(options("free"), CLASSES, IMAGES)
    for rows, index in batches():
        rule(torch.tensor(rows), as_batch(index))
    rng = random.Random(1)
    logits = [[rng.gauss(0, 2) for _ in range(CLASSES)] for _ in range(7)]
    weight = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    probs = []
    for row in logits:
        total = sum(map(math.exp, row))
        probs.append([math.exp(v) / total for v in row])
    kept = [p for p, w in zip(probs, weight, strict=True) if w]
    mean = [sum(p[c] for p in kept) / len(kept) for c in range(CLASSES)]
    share = [sum(p.index(max(p)) == c for p in kept) / len(kept) for c in range(CLASSES)]
    ours = [m / s if s else 0.0 for m, s in zip(mean, share, strict=True)]
    running = [
        m / h for m, h in zip(rule.mean_probs.tolist(), rule.histogram.tolist(), strict=True)
    ]
    expected = sum(
        r / sum(running) * math.log(o / sum(ours) + 1e-12)
        for r, o in zip(running, ours, strict=True)
    )
    got = rule.fairness(rule.statistics(torch.tensor(logits), torch.tensor(weight)))
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_freematch_fairness_of_no_kept_image_is_zero() -> None:
    rule = FreeRule(options("free"), CLASSES, IMAGES)
    for logits in (torch.randn(3, CLASSES), torch.empty(0, CLASSES)):
        sums = rule.statistics(logits, torch.zeros(len(logits)))
        assert rule.fairness(sums).item() == 0


def test_softmatch_weighs_by_a_truncated_gaussian_of_two_deviations() -> None:
    rule = SoftRule(options("soft"), CLASSES, IMAGES)
    mean, var = 1 / CLASSES, 1.0
    for rows, index in batches():
        top = [max(row) for row in rows]
        center = sum(top) / len(top)
        spread = sum((t - center) ** 2 for t in top) / (len(top) - 1)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * center
        var = MOMENTUM * var + (1 - MOMENTUM) * spread
        expected = [
            1.0 if t >= mean else math.exp(-((t - mean) ** 2) / (2 * var / 2**2)) for t in top
        ]
        weight, _ = rule(torch.tensor(rows), as_batch(index))
        assert weight.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.5), (0.2, 0.7), (0.4, 0.9), (0.99, 0.9)]
)
def test_the_threshold_moves_from_its_start(progress: float, expected: float) -> None:
    rule = FixedRule(
        options("fixed", threshold=0.9, threshold_start=0.5, threshold_ramp=0.4), CLASSES, IMAGES
    )
    weight, threshold = rule(
        torch.tensor([[expected + 0.01, 0.0], [expected - 0.01, 0.0]]), as_batch([0, 1], progress)
    )
    assert threshold.item() == pytest.approx(expected)
    assert weight.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["none", "uniform", "labeled"])
def test_alignment_scales_by_target_over_running_mean(kind: str) -> None:
    align = Alignment(options("fixed", alignment=kind), CLASSES)
    mean, target = [1 / CLASSES] * CLASSES, [1 / CLASSES] * CLASSES
    labels = [0, 0, 0, 1, 2]
    for rows, _ in batches():
        got = align(torch.tensor(rows), torch.tensor(labels))
        n = len(rows)
        mean = [
            MOMENTUM * m + (1 - MOMENTUM) * sum(row[c] for row in rows) / n
            for c, m in enumerate(mean)
        ]
        if kind == "labeled":
            target = [
                MOMENTUM * t + (1 - MOMENTUM) * labels.count(c) / len(labels)
                for c, t in enumerate(target)
            ]
        for row, result in zip(rows, got.tolist(), strict=True):
            scaled = [p * t / m for p, t, m in zip(row, target, mean, strict=True)]
            expected = row if kind == "none" else [s / sum(scaled) for s in scaled]
            assert result == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_class_shares_of_nothing_are_zero() -> None:
    assert class_shares(torch.empty(0, dtype=torch.long), 3).tolist() == [0, 0, 0]


def test_the_consistency_loss_is_faded_in() -> None:
    assert fade_in(0.0, 0.0) == 1
    assert fade_in(0.0, 0.5) == pytest.approx(math.exp(-5))
    assert fade_in(0.25, 0.5) == pytest.approx(math.exp(-1.25))
    assert fade_in(0.5, 0.5) == 1


def test_equal_confidences_have_equal_weights_without_a_running_mean() -> None:
    rule = SoftRule(options("soft", momentum=0.0), CLASSES, IMAGES)
    rows = torch.full((5, CLASSES), 0.1)
    rows[:, 0] = 0.7
    weight, _ = rule(rows, as_batch([0, 1, 2, 3, 4]))
    assert weight.tolist() == [1.0] * 5


@pytest.mark.parametrize("seed", range(20))
def test_of_the_values_for_one_image_the_first_wanted_one_is_written(seed: int) -> None:
    rng = random.Random(seed)
    before = [rng.randrange(-1, 4) for _ in range(6)]
    index = [rng.randrange(6) for _ in range(9)]
    values = [rng.randrange(4) for _ in index]
    wanted = [rng.random() < 0.4 for _ in index]
    memory, after = Memory(6, 0), list(before)
    memory.values.copy_(torch.tensor(before))
    for place, value, want in reversed(list(zip(index, values, wanted, strict=True))):
        after[place] = value if want else after[place]
    said = memory.write(torch.tensor(index), torch.tensor(values), torch.tensor(wanted))
    assert memory.values.tolist() == after
    firsts = [index.index(place) == entry for entry, place in enumerate(index)]
    assert [part.tolist() for part in said] == [
        [before[place] for place in index],
        [after[place] for place in index],
        firsts,
    ]
    memory.take_back(unless=torch.tensor(True))
    assert memory.values.tolist() == after
    memory.write(torch.tensor(index), torch.tensor(values), torch.tensor(wanted))
    memory.take_back(unless=torch.tensor(False))
    memory.take_back(unless=torch.tensor(False))  # once
    assert memory.values.tolist() == after


def test_flexmatch_counts_more_images_than_a_float_can() -> None:
    rule = FlexRule(options("flex", threshold=0.8), 2, 2**24 + 9)
    rows = torch.tensor([[0.9, 0.1]] * 3)
    for first in range(0, 9, 3):
        rule(rows, as_batch([first, first + 1, first + 2]))
        rule(rows, as_batch([first, first, first + 2]))  # again, which counts nobody twice
    assert rule.counts.tolist() == [9, 0, 2**24]


def test_flexmatch_looks_at_the_images_of_the_batch_alone() -> None:
    rule = FlexRule(options("flex"), CLASSES, 1000)
    with Sizes() as seen:
        rule(torch.full((8, CLASSES), 0.25), as_batch(list(range(8))))
        rule.latest.take_back(torch.tensor(False))
    assert max(seen.made) <= 8 * CLASSES


class Sizes(TorchDispatchMode):
    """Notes how large the tensors are that operations make anew."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and all(out is not given for given in args):
            self.made.append(out.numel())
        return out


@pytest.mark.parametrize(
    ("name", "rule"),
    [("fixed", FixedRule), ("flex", FlexRule), ("free", FreeRule), ("soft", SoftRule)],
)
def test_weighing_other_images_changes_no_rule(name: str, rule: Any) -> None:
    """Validation images are weighed as the rule stands: the next batch must not notice."""
    asked, watched = (rule(options(name), CLASSES, IMAGES) for _ in range(2))
    *before, (rows, index) = batches()
    for r, i in before:
        expected = asked(torch.tensor(r), as_batch(i))
        found = watched(torch.tensor(r), as_batch(i))
        for other, _ in batches(3, size=4):
            first, second = (watched.weigh(torch.tensor(other), 0.5) for _ in range(2))
            assert torch.equal(first[0], second[0])
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        watched(torch.tensor(rows), as_batch(index)), asked(torch.tensor(rows), as_batch(index))
    )
