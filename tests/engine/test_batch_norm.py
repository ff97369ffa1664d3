"""Networks whose features in training depend on the whole batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import CONVOLUTIONAL, build, draw, scramble
from support import changed_params, small_rhythm, step_of
from torch import Tensor

from semimae.backbones.batch_norm import running_statistics
from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.fit import fit
from semimae.engine.optim import ema_update
from semimae.methods.base import predict
from semimae.methods.registry import build_method
from semimae.model import model_of
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.types import Batch, Interrupted, Step, UserError

CNN = {"name": "cnn", "width": 4, "depth": 2, "weights": None}
RESNET = CONVOLUTIONAL["resnet"].model_dump()
WITHOUT_BRANCH = [name for name in METHODS if changed_params(method=name).cell().mim is None]

MakeCell = Callable[..., Cell]


def run(
    cell: Cell,
    prepared: Prepared,
    split: Split,
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainState:
    return fit(
        cell,
        prepared,
        split,
        small_rhythm(),
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=should_stop,
    )


@pytest.mark.parametrize("method", WITHOUT_BRANCH)
def test_every_method_without_a_branch_trains_one(
    method: str, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = small_cell(method, backbone=CNN, pseudo_label__threshold=0.11)
    first = model_of(cell, digits)
    state = run(cell, digits, digits_split, tmp_path)
    for model in (state.model, state.ema):
        before = zip(running_statistics(model), running_statistics(first), strict=True)
        assert not any(torch.equal(a, b) for a, b in before)
    assert not state.ema.training
    assert state.history[-1]["loss/total"] > 0


def test_averaged_weights_have_averaged_statistics() -> None:
    ours, theirs = (build(CONVOLUTIONAL["cnn"]) for _ in range(2))
    scramble(ours, seed=1)
    scramble(theirs, seed=2)
    pairs = zip(running_statistics(ours), running_statistics(theirs), strict=True)
    expected = [
        [0.9 * a + 0.1 * b for a, b in zip(x.tolist(), y.tolist(), strict=True)] for x, y in pairs
    ]
    ema_update(ours, theirs, 0.9)
    for statistic, values in zip(running_statistics(ours), expected, strict=True):
        assert statistic.tolist() == pytest.approx(values, rel=1e-5)


def test_whoever_labels_looks_at_each_image_alone() -> None:
    model = build(CONVOLUTIONAL["cnn"]).train()
    scramble(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = draw()
    nothing = images[:0]
    batch = Batch(
        labeled=nothing,
        labels=torch.zeros(0, dtype=torch.int64),
        weak=images,
        strong=images,
        mask_noise=nothing,
        mix_noise=nothing,
        unlabeled_index=torch.arange(3),
        progress=0.0,
    )
    with torch.no_grad():
        found = predict(model, batch, "weak")
        assert model.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        model.eval()
        alone = torch.cat([model(image[None]).softmax(dim=-1) for image in images])
    torch.testing.assert_close(found, alone)


def test_rejected_views_count_in_the_statistics(
    small_cell: MakeCell, digits: Prepared, digits_split: Split
) -> None:
    """One pass of labeled and strong views, whatever their weight."""
    cell = small_cell(
        "fixmatch", backbone=CNN, pseudo_label__threshold=1.0, pseudo_label__skip_rejected="cpu"
    )
    model, teacher = model_of(cell, digits).train(), model_of(cell, digits).eval()
    batch = first_batch(cell, digits, digits_split)
    method = build_method(cell.options, 10, digits_split.num_unlabeled)
    out = step_of(method, model, teacher, batch)
    assert out.pseudo is not None
    assert not out.pseudo.weight.any()
    first = model.backbone.vit.blocks[0]  # type: ignore[attr-defined]
    with torch.no_grad():
        seen: Tensor = first[0](torch.cat([batch.labeled, batch.strong]))
    # torch's default: a tenth of the new value, from 0 on
    expected = 0.1 * seen.mean(dim=(0, 2, 3))
    torch.testing.assert_close(first[1].running_mean, expected)


def first_batch(cell: Cell, prepared: Prepared, split: Split) -> Batch:
    views = TrainViews(
        prepared,
        split,
        cell.data,
        seed=cell.seed,
        batch_size=cell.train.batch_size,
        num_unlabeled=cell.num_unlabeled,
        num_patches=0,
        num_steps=cell.train.steps,
        device=torch.device("cpu"),
    )
    return views(0).batch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_step_leaves_the_statistics_as_they_were(
    value: float,
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = TrainViews.__call__

    def spoiled(self: TrainViews, step: int) -> Step:
        found = views(self, step)
        if step != 4:
            return found
        return found._replace(batch=found.batch._replace(labeled=found.batch.labeled * value))

    monkeypatch.setattr(TrainViews, "__call__", spoiled)
    states = []
    for steps in (4, 5):
        countdown = iter(range(steps - 1, -1, -1))
        folder = tmp_path / str(steps)
        with pytest.raises(Interrupted):
            run(
                small_cell("supervised", backbone=CNN),
                digits,
                digits_split,
                folder,
                lambda left=countdown: next(left) == 0,  # type: ignore[misc]
            )
        states.append(load_file(folder / f"step-{steps:09d}.safetensors"))
    good, bad = states
    assert bad["bad_steps"][2] == 1
    names = [k for k in good if k.startswith("model.") and not k.endswith("num_batches_tracked")]
    assert any("running_var" in name for name in names)
    for name in names:
        assert torch.equal(good[name], bad[name]), name


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"train__accumulate": 2}, "train.accumulate=2 is not for .* whole batch; set it to 1"),
    ({"train__processes": 2}, "train.processes=2 is not for .* whole batch; set it to 1"),
    ({"train__recompute": True}, "train.recompute=true is not for .* set it to false"),
    ({"train__batch_size": 1}, "train.batch_size=1 is not for .* set it to 2 or more"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_what_splits_or_repeats_the_batch_is_refused(
    changes: dict[str, Any],
    message: str,
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=message):  # at once
        small_cell("supervised", backbone=CNN, **changes)
    cell = small_cell("supervised", backbone=RESNET, **changes)
    with pytest.raises(UserError, match=message):  # when timm has said what it is
        run(cell, digits, digits_split, tmp_path)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - set(WITHOUT_BRANCH)))
def test_methods_with_a_branch_are_refused(method: str, small_cell: MakeCell) -> None:
    with pytest.raises(UserError, match=r"backbone\.name=cnn .* no patches .* without that branch"):
        small_cell(method, backbone=CNN)
