"""A weight of the reconstruction that follows the gradients, against plain arithmetic."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import mae
from support import small_rhythm

from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, Row
from semimae.engine.device import make_autocast
from semimae.engine.fit import fit
from semimae.engine.gradients import Gradients
from semimae.methods.registry import build_method
from semimae.methods.weighting import ReconstructionWeight
from semimae.model import model_of
from semimae.options.cell import Cell
from semimae.options.mim import LARGEST_WEIGHT

WEIGHTS = {"supervised": 1.0, "consistency": 2.5}


def norm(values: list[float]) -> float:
    return math.sqrt(sum(v * v for v in values))


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_it_is_the_ratio_of_running_norms(momentum: float) -> None:
    options = mae(
        weighting="gradient", gradient_ratio=3.0, lambda_mim=0.5, weighting_momentum=momentum
    )
    weight = ReconstructionWeight(options)
    assert float(weight.value) == 0.5
    source = torch.Generator().manual_seed(0)
    ours = theirs = 0.0
    for _ in range(5):
        drawn = torch.randn(3, 4, generator=source)
        gradients = dict(zip([*WEIGHTS, "reconstruction"], drawn, strict=True))
        weight.observe(gradients, WEIGHTS)
        supervised, consistency, reconstruction = drawn.tolist()
        others = [s + 2.5 * c for s, c in zip(supervised, consistency, strict=True)]
        theirs = momentum * theirs + (1 - momentum) * norm(others)
        ours = momentum * ours + (1 - momentum) * norm(reconstruction)
        assert float(weight.value) == pytest.approx(3.0 * theirs / ours, rel=1e-5)


def test_it_has_bounds_and_stays_where_nothing_is_reconstructed() -> None:
    weight = ReconstructionWeight(mae(weighting="gradient", lambda_mim=0.5, weighting_momentum=0.5))
    pull, nothing = torch.ones(3), torch.zeros(3)
    weight.observe({"supervised": pull, "reconstruction": nothing}, WEIGHTS)
    assert float(weight.value) == 0.5
    weight.observe({"supervised": pull, "reconstruction": pull * 1e-9}, WEIGHTS)
    assert float(weight.value) == LARGEST_WEIGHT
    weight.observe({"supervised": nothing, "reconstruction": pull * 1e9}, WEIGHTS)
    assert 0 < float(weight.value) < 1e-6


def test_a_fixed_weight_is_a_number_without_state() -> None:
    weight = ReconstructionWeight(mae(lambda_mim=30.0))
    assert weight.value == 30.0
    assert isinstance(weight.value, float)
    assert not weight.state_dict()
    assert weight.every == 0


# --- in a step


@pytest.fixture
def balanced(small_cell: Callable[..., Cell]) -> Callable[..., Cell]:
    def make(method: str = "semi_mae", **changes: object) -> Cell:
        return small_cell(
            method,
            mim__weighting="gradient",
            **{"mim__gradient_ratio": 0.4, "mim__weighting_every": 3} | changes,
        )

    return make


@pytest.mark.parametrize("method", ["semi_mae", "ssmae"])
def test_the_gradients_in_the_encoder_then_have_the_asked_ratio(
    method: str, balanced: Callable[..., Cell], digits: Prepared, digits_split: Split
) -> None:
    """Compared by backward passes of the summed loss alone, with and without the reconstruction."""
    cell = balanced(method, mim__weighting_momentum=0.0, pseudo_label__threshold=0.0)
    model = model_of(cell, digits)
    methods = build_method(cell.options, 10, digits_split.num_unlabeled)
    methods.observe_validation(torch.eye(10, dtype=torch.float64), torch.arange(10))
    batch = TrainViews(
        digits,
        digits_split,
        cell.data,
        seed=0,
        batch_size=4,
        num_unlabeled=8,
        num_patches=model.backbone.num_patches,
        num_steps=8,
        device=torch.device("cpu"),
    )(5).batch
    gradients = Gradients(model, methods)
    autocast = make_autocast(cell.train, torch.device("cpu"), 16)

    def encoder() -> torch.Tensor:
        parts = [
            p.grad.flatten()
            for name, p in model.backbone.named_parameters()  # type: ignore[attr-defined]
            if p.grad is not None and not name.startswith("vit.head")
        ]
        return torch.cat(parts)

    measured: dict[str, torch.Tensor] = {}
    gradients.compute(model, batch, autocast, measured)
    methods.observe_gradients(measured)
    assert set(measured) == {"supervised", "consistency", "reconstruction"}
    assert all(gradient.any() for gradient in measured.values())
    gradients.compute(model, batch, autocast)
    whole = encoder()
    methods.reconstruction.balanced.zero_()  # type: ignore[union-attr,operator]
    gradients.compute(model, batch, autocast)
    others = encoder()
    assert float((whole - others).norm() / others.norm()) == pytest.approx(0.4, rel=1e-4)


def rows_of(
    cell: Cell, digits: Prepared, digits_split: Split, folder: Path, **rhythm: object
) -> list[Row]:
    state = fit(
        cell,
        digits,
        digits_split,
        small_rhythm(train__log_every=1, **rhythm),
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
    )
    return state.history


def test_a_run_follows_the_gradients_that_it_logs(
    balanced: Callable[..., Cell], digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """Without consistency the others are one logged term."""
    cell = balanced(pseudo_label__lambda_u=0.0, mim__weighting_momentum=0.6, mim__lambda_mim=2.0)
    rows = rows_of(cell, digits, digits_split, tmp_path, train__gradient_every=1)
    weight, ours, theirs = 2.0, 0.0, 0.0
    for step, row in enumerate(rows):
        assert row["weight/reconstruction"] == pytest.approx(weight, rel=1e-4)
        total = row["loss/supervised"] + weight * row["loss/reconstruction"]
        assert row["loss/total"] == pytest.approx(total, rel=1e-4)
        if step % 3 == 0:
            theirs = 0.6 * theirs + 0.4 * row["gradient/supervised"]
            ours = 0.6 * ours + 0.4 * row["gradient/reconstruction"]
            weight = 0.4 * theirs / ours


def test_how_often_gradients_are_logged_decides_nothing(
    balanced: Callable[..., Cell], digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    every = rows_of(balanced(), digits, digits_split, tmp_path / "a", train__gradient_every=1)
    never = rows_of(balanced(), digits, digits_split, tmp_path / "b", train__gradient_every=0)
    assert not any("gradient/supervised" in row for row in never)
    for name in ("weight/reconstruction", "loss/total"):
        assert [row[name] for row in every] == [row[name] for row in never]


def test_a_fixed_weight_has_no_curve(
    small_cell: Callable[..., Cell], digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    rows = rows_of(small_cell("semi_mae"), digits, digits_split, tmp_path)
    assert not any("weight/reconstruction" in row for row in rows)


# --- in a cell


def test_keys_that_decide_no_weight_are_in_no_cell(small_cell: Callable[..., Cell]) -> None:
    fixed = small_cell(mim__gradient_ratio=1.0, mim__weighting_every=5)
    assert fixed == small_cell(mim__gradient_ratio=3.0, mim__weighting_every=7)
    ratios = [small_cell(mim__weighting="gradient", mim__gradient_ratio=r) for r in (1.0, 3.0)]
    assert ratios[0] != ratios[1]
    alone = small_cell("mae", mim__weighting="gradient", mim__lambda_mim=3.0)
    assert alone == small_cell("mae")
