"""Probes that are trained by gradient descent on frozen features."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support import changed_params

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.infer import infer
from semimae.evaluation.metrics import Scores
from semimae.evaluation.probe import probe
from semimae.evaluation.trained_probes import attentive_probe, batch_norm_probe, train_probes
from semimae.model import SemiModel, model_of
from semimae.options.cell import Cell
from semimae.options.evaluation import LinearProbeConfig
from semimae.types import UserError


def config(*trained: str, **changes: object) -> LinearProbeConfig:
    given = {"trained": [*trained], "trained_steps": 60, "trained_batch_size": 32} | changes
    params = changed_params(**{f"linear_probe__{name}": value for name, value in given.items()})
    return params.linear_probe


@pytest.fixture(scope="module")
def cell(small_cell: Callable[..., Cell]) -> Cell:
    return small_cell("semi_mae")


@pytest.fixture(scope="module")
def model(cell: Cell, digits: Prepared) -> SemiModel:
    return model_of(cell, digits)


def test_off_means_off(model: SemiModel, cell: Cell, digits: Prepared, digits_split: Split) -> None:
    off = probe(model, cell, digits, digits_split, config()).scores
    on = probe(model, cell, digits, digits_split, config("attentive", "batch_norm")).scores
    assert off.keys() == on.keys() - {"trained_lr"}
    assert set(on["protocols"]) - set(off["protocols"]) == {"batch_norm_probe", "attentive_probe"}
    assert all(on["protocols"][name] == scores for name, scores in off["protocols"].items())
    for name in ("batch_norm_probe", "attentive_probe"):
        scores = Scores.model_validate(on["protocols"][name])
        assert scores.num_images == len(digits_split.test(digits))
        assert scores.top1.value > 0.15  # even on features of random weights; chance is 0.1
    assert on["trained_lr"].keys() == {"batch_norm", "attentive"}


def test_it_repeats_and_leaves_model_and_generator_alone(
    model: SemiModel, cell: Cell, digits: Prepared, digits_split: Split
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    wanted = config("batch_norm", "attentive", trained_steps=5)
    one, other = (train_probes(model, cell, digits, digits_split, wanted) for _ in range(2))
    for kind in ("batch_norm", "attentive"):
        assert torch.equal(one[kind].probabilities, other[kind].probabilities)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_the_linear_probe_with_batch_norm_reaches_logistic_regression(
    model: SemiModel, cell: Cell, digits: Prepared, digits_split: Split
) -> None:
    """Over whole batches, batch norm standardizes: the loss nears that of the fitted minimum."""
    x = infer(model, cell, digits, np.array(digits_split.labeled)).features
    y = torch.from_numpy(digits.labels[np.array(digits_split.labeled)])
    ours = batch_norm_probe(x.shape[1], 10).train()
    scaled = (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-6).sqrt()
    linear = ours[1]  # type: ignore[index]
    torch.testing.assert_close(ours(x), scaled @ linear.weight.T + linear.bias)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert {name for name, _ in ours.named_parameters()} == {"1.weight", "1.bias"}
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(ours(x), y)
        loss.backward()
        optimizer.step()
    assert loss < 0.05  # 40 images of 16 features can be told apart


@torch.no_grad()
def test_the_attentive_probe_is_the_attention_of_one_query() -> None:
    ours = attentive_probe(128, 5)
    pool, linear = ours[0], ours[1]  # type: ignore[index]
    tokens = torch.randn(3, 9, 128, generator=torch.Generator().manual_seed(0))
    assert pool.num_heads == 2
    query = pool.q(pool.latent)[0, 0].reshape(2, 64)
    keys, values = pool.kv(tokens).split(128, dim=-1)
    found = []
    for head in range(2):
        part = slice(64 * head, 64 * head + 64)
        weight = (keys[..., part] @ query[head] / 8).softmax(dim=1)
        found.append((weight.unsqueeze(-1) * values[..., part]).sum(dim=1))
    mixed = pool.proj(torch.cat(found, dim=1))
    expected = linear(mixed + pool.mlp(pool.norm(mixed)))
    torch.testing.assert_close(ours(tokens), expected)
    order = [8, 1, 0, 2, 3, 7, 6, 5, 4]
    torch.testing.assert_close(ours(tokens[:, order]), expected)


def test_validation_chooses_the_learning_rate(
    model: SemiModel, cell: Cell, digits: Prepared, digits_split: Split
) -> None:
    """A rate that hardly moves the probe is not taken; labels of test images play no part."""
    wanted = config("batch_norm", trained_lr=[1e-9, 1e-2])
    found = train_probes(model, cell, digits, digits_split, wanted)["batch_norm"]
    assert found.lr == 1e-2
    labels = digits.labels.copy()
    labels[digits.splits == "test"] = 0
    poisoned = Prepared(digits.info, digits.names, labels, digits.splits, digits.images)
    other = train_probes(model, cell, poisoned, digits_split, wanted)["batch_norm"]
    assert torch.equal(found.probabilities, other.probabilities)


def test_folds_choose_the_learning_rate_and_all_labels_train_the_probe(
    model: SemiModel, cell: Cell, digits: Prepared, digits_split: Split
) -> None:
    halves = (digits_split.labeled[::2], digits_split.labeled[1::2])
    folded = digits_split.model_copy(update={"val": (), "folds": halves})
    wanted = config("batch_norm", trained_lr=[1e-9, 1e-2])
    found = train_probes(model, cell, digits, folded, wanted)["batch_norm"]
    assert found.lr == 1e-2
    alone = config("batch_norm", trained_lr=[1e-2])
    whole = train_probes(model, cell, digits, digits_split, alone)["batch_norm"]
    assert torch.equal(found.probabilities, whole.probabilities)


def test_each_probe_is_named_once() -> None:
    with pytest.raises(ValidationError, match="trained names attentive twice; name each probe onc"):
        config("attentive", "attentive")


def test_a_network_without_patches_is_refused(
    small_cell: Callable[..., Cell], digits: Prepared, digits_split: Split
) -> None:
    backbone = {"name": "cnn", "width": 4, "depth": 2, "weights": None}
    cell = small_cell("supervised", backbone=backbone)
    with pytest.raises(UserError, match=r"linear_probe\.trained: attentive needs the tokens"):
        train_probes(model_of(cell, digits), cell, digits, digits_split, config("attentive"))
    found = train_probes(
        model_of(cell, digits), cell, digits, digits_split, config("batch_norm", trained_steps=2)
    )
    assert found.keys() == {"batch_norm"}
