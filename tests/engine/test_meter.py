from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from semimae.engine.meter import Meter

pairs = st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 10)), min_size=1, max_size=8)


@given(pairs)
def test_the_mean_is_weighted(values: list[tuple[float, float]]) -> None:
    meter = Meter()
    for value, weight in values:
        meter.add("x", torch.tensor(value), torch.tensor(weight))
    total = sum(w for _, w in values)
    if total == 0:
        assert meter.flush() == {}
    elif total > 1e-3:
        expected = sum(v * w for v, w in values) / total
        assert meter.flush()["x"] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_without_weights_it_is_the_plain_mean_of_each_name() -> None:
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add("a", torch.tensor(value))
        meter.add("b", torch.tensor(-value, dtype=torch.bfloat16))
    assert meter.flush() == {"a": 3.0, "b": -3.0}


def test_what_has_no_weight_may_be_anything() -> None:
    meter = Meter()
    meter.add("x", torch.tensor(float("nan")), torch.tensor(False))
    meter.add("x", torch.tensor(float("inf")), torch.tensor(0.0))
    meter.add("y", torch.tensor(float("nan")), torch.tensor(0.0))
    meter.add("x", torch.tensor(2.0), torch.tensor(True))
    assert meter.flush() == {"x": 2.0}


def test_the_elements_of_a_vector_have_numbered_names() -> None:
    meter = Meter()
    meter.add("v", torch.tensor([1.0, 2.0, 3.0]))
    meter.add("v", torch.tensor([3.0, 4.0, float("nan")]), torch.tensor([1.0, 3.0, 0.0]))
    assert meter.flush() == {"v/0": 2.0, "v/1": 3.5, "v/2": 3.0}


def test_flush_starts_again() -> None:
    meter = Meter()
    assert meter.flush() == {}
    meter.add("x", torch.tensor(5.0))
    meter.flush()
    meter.add("x", torch.tensor(1.0))
    assert meter.flush() == {"x": 1.0}


def test_it_holds_on_to_no_graph() -> None:
    meter = Meter()
    meter.add("x", torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True))
    assert not any(sums.requires_grad for sums in meter.sums.values())


def test_the_order_of_addition_does_not_show() -> None:
    """A resumed run may add in another order than the run that was stopped."""
    one, other = Meter(), Meter()
    for name in "ab":
        one.add(name, torch.tensor(1.0))
    for name in "ba":
        other.add(name, torch.tensor(1.0))
    assert list(one.flush()) == list(other.flush())


_STEPS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-9, 9), st.booleans()), max_size=6),
    max_size=6,
)


@given(_STEPS, st.integers(0, 5))
def test_names_may_come_and_go_from_step_to_step(
    steps: list[list[tuple[str, float, bool]]], saved_after: int
) -> None:
    """As gradients do, which are measured at some steps; and a run may be resumed in between."""
    meter = Meter()
    expected: dict[str, list[float]] = {}
    for number, step in enumerate(steps):
        for name, value, counts in step:
            meter.add(name, torch.tensor(value), torch.tensor(counts))
            expected.setdefault(name, []).extend([value] * counts)
        meter.end_step()
        if number == saved_after:
            kept, meter = meter.sums, Meter()
            meter.sums = {name: sums.clone() for name, sums in sorted(kept.items())}
    means = {name: sum(values) / len(values) for name, values in expected.items() if values}
    assert meter.flush() == pytest.approx(means, rel=1e-5, abs=1e-5)


def test_one_step_takes_few_operations() -> None:
    """A GPU waits for each to be started."""
    meter, good = Meter(), torch.tensor(1.0)
    for _ in range(2):  # the first step makes room for the names
        with Operations() as operations:
            for index in range(15):
                meter.add(f"x{index}", torch.tensor(float(index)), good)
            meter.end_step()
    assert operations.count <= 10
    assert meter.flush()["x7"] == 7.0


class Operations(TorchDispatchMode):
    """Counts operations that compute."""

    FREE = ("detach", "expand", "view", "_unsafe_view", "slice", "reshape", "lift_fresh", "alias")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.__name__.startswith(self.FREE)
        return func(*args, **(kwargs or {}))
