import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
