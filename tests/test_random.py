import pytest
import torch

from semimae.random import generator, permutation, uniform


def test_draws_depend_on_the_key_alone() -> None:
    expected = uniform((4, 3), 0, "mask", 7)
    torch.manual_seed(1)
    uniform((100,), 0, "mask", 6)
    assert torch.equal(uniform((4, 3), 0, "mask", 7), expected)
    assert torch.equal(torch.rand((4, 3), generator=generator(0, "mask", 7)), expected)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    uniform((3,), 0)
    permutation(3, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "other", [(1, "mask", 7), (0, "mask", 8), (0, "view", 7), (0, "mask"), ("0", "mask", 7)]
)
def test_another_key_gives_other_draws(other: tuple[int | str, ...]) -> None:
    assert not torch.equal(uniform((8,), *other), uniform((8,), 0, "mask", 7))


def test_uniform_draws_are_in_the_unit_interval() -> None:
    draws = uniform((100_000,), 0, "x")
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.005)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.002)


@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_a_permutation_has_every_number_once(n: int) -> None:
    assert sorted(permutation(n, 0, "x").tolist()) == list(range(n))


def test_neighboring_seeds_are_not_alike() -> None:
    """A plain ``manual_seed(seed + step)`` would make (0, 1) and (1, 0) the same."""
    firsts = [uniform((1,), seed, step).item() for seed in range(20) for step in range(20)]
    assert len(set(firsts)) == 400


def test_the_draws_of_a_key_never_change() -> None:
    """Or a published run could not be repeated with a later version."""
    assert permutation(8, 0, "labeled", 0).tolist() == [5, 6, 0, 3, 2, 4, 7, 1]
    assert uniform((3,), 0, "mask", 0).tolist() == pytest.approx(
        [0.714942217, 0.284258604, 0.535390615], rel=1e-6
    )
