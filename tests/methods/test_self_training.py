"""Self-training: teachers, their ensemble, the labels that are kept, the student."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import scramble
from support import changed_params, small_rhythm, step_of

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import TrainState
from semimae.engine.infer import infer
from semimae.engine.phases import fit_phases
from semimae.engine.teachers import combine
from semimae.methods.registry import build_method
from semimae.methods.self_training import SelfTraining
from semimae.model import model_of
from semimae.model_file import open_model
from semimae.options.cell import Cell
from semimae.types import Batch, Interrupted, UserError

TEACHERS = [{"tuning": "lora", "seed": 3}, {"weights": "other.safetensors"}, {}]


@pytest.fixture
def start(digits: Prepared, tmp_path: Path) -> Prepared:
    """The digits, with starting weights in their folder."""
    for seed, name in enumerate(["start", "other"]):
        model = model_of(changed_params(method="supervised", seed=seed).cell(), digits)
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    return dataclasses.replace(digits, root=tmp_path)


def cell_of(**changes: object) -> Cell:
    settings: dict[str, object] = {
        "method": "self_training",
        "backbone__weights": "start.safetensors",
        "self_training__teachers": TEACHERS,
        "self_training__teacher_steps": 25,
        "train__steps": 6,
        "optim__lr": 1e-2,
    }
    return changed_params(**settings | changes).cell()


def run(
    cell: Cell, prepared: Prepared, split: Split, folder: Path, stop: Callable[[], bool]
) -> tuple[TrainState, list[dict[str, Any]]]:
    return fit_phases(
        cell,
        prepared,
        split,
        small_rhythm(train__save_every=2),
        resume=folder / "resume",
        finished=lambda phase: folder / "phases",
        on_row=lambda kind, row: None,
        should_stop=stop,
    )


def _is(number: int, asked: Iterator[int]) -> bool:
    return next(asked) == number


# --- the ensemble


def test_votes_count_alike_and_probabilities_are_averaged() -> None:
    """Against plain Python; the sure teacher wins by probabilities, the two others by votes."""
    source = torch.Generator().manual_seed(0)
    said = (torch.randn(3, 200, 4, generator=source) * 2).softmax(dim=2).double()
    votes, averaged = combine(said, "votes"), combine(said, "probabilities")
    differ = 0
    for image in range(200):
        rows = said[:, image].tolist()
        mean = [sum(column) / 3 for column in zip(*rows, strict=True)]
        named = [max(range(4), key=row.__getitem__) for row in rows]
        counts = Counter(named)
        winner = max(range(4), key=lambda c: (counts[c], mean[c]))
        best = max(range(4), key=mean.__getitem__)
        assert votes.votes[image].tolist() == named
        assert votes.labels[image].item() == winner
        assert votes.confidence[image].item() == pytest.approx(mean[winner])
        assert averaged.votes[image].tolist() == [averaged.labels[image].item()] == [best]
        assert averaged.confidence[image].item() == pytest.approx(mean[best])
        differ += winner != best
    assert differ > 0


# --- the teachers


def test_each_teacher_has_what_it_says_and_else_what_the_run_has() -> None:
    cell = cell_of()
    first, second, third = cell.teachers()
    assert [t.method for t in (first, second, third)] == ["supervised"] * 3
    assert [t.train.steps for t in (first, second, third)] == [25, 25, 25]
    assert [t.backbone.tuning for t in (first, second, third)] == ["lora", "full", "full"]
    assert first.backbone.lora is not None
    assert (second.backbone.lora, third.backbone.lora) == (None, None)
    assert [t.seed for t in (first, second, third)] == [3, 0, 0]
    weights = [t.backbone.weights for t in (first, second, third)]
    assert weights == ["start.safetensors", "other.safetensors", "start.safetensors"]
    assert cell_of(method="fixmatch").teachers() == []


def test_the_content_of_every_file_is_part_of_the_identity(start: Prepared) -> None:
    assert start.root is not None
    cell = cell_of().with_weights_hash(start.root)
    own, other = (t.weights_sha256 for t in cell.teachers()[:2])
    assert (own, other) != (None, None)
    assert own == cell.weights_sha256 != other
    assert cell.as_asked == cell_of()
    (start.root / "other.safetensors").write_bytes(b"another")
    assert cell.with_weights_hash(start.root) != cell
    with pytest.raises(UserError, match=r"weights=other\.safetensors has changed"):
        model_of(cell.teachers()[1], start)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"self_training__teachers": [{"model": "vit_tiny_patch16_224"}]}, r"teachers\.0: model"),
        (
            {
                "backbone__weights": None,
                "backbone__tuning": "full",
                "self_training__teachers": [{}, {"tuning": "head"}],
            },
            r"teachers\.1: .*tuning=head keeps most weights",
        ),
        ({"self_training__teacher_steps": 1}, r"warmup_steps=1 .*self_training\.teacher_steps"),
    ],
)
def test_teachers_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cell_of(**changes)


# --- a run


def test_the_student_is_trained_on_what_the_teachers_say(
    start: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = cell_of()
    state, costs = run(cell, start, digits_split, tmp_path, lambda: False)
    assert [cost["method"] for cost in costs] == ["supervised"] * 3 + ["pseudo_labels"]
    assert all(cost["seconds"] > 0 for cost in costs)
    rows = digits_split.unlabeled(start)
    models = {
        opened.info.cell.model_dump_json(): opened.model
        for opened in map(open_model, (tmp_path / "phases").glob("*.safetensors"))
    }
    assert len(models) == 3
    teachers = [(t, models[t.model_dump_json()]) for t in cell.teachers()]
    said = torch.stack([infer(m, t, start, rows).probabilities for t, m in teachers])
    buffers = dict(state.method.named_buffers())
    assert torch.equal(buffers["votes"], said.argmax(dim=2).T)
    assert len(set(map(tuple, buffers["votes"].T.tolist()))) == 3  # no two teachers are the same
    # On the validation images, which nobody has trained on.
    val = np.asarray(digits_split.val)
    known = torch.from_numpy(start.labels[val])
    of_val = torch.stack([infer(m, t, start, val).probabilities for t, m in teachers])
    right = [(p.argmax(dim=1) == known).double().mean().item() for p in of_val]
    named = costs[-1]["teachers"]
    assert [t["top1"] for t in named] == pytest.approx(right)
    assert [(t["tuning"], t["seed"]) for t in named] == [("lora", 3), ("full", 0), ("full", 0)]
    together = (combine(of_val, "votes").labels == known).double().mean().item()
    assert costs[-1]["ensemble_top1"] == pytest.approx(together)
    assert costs[-1]["val_images"] == len(val)
    assert state.step == 6
    assert {row["pseudo/coverage"] for row in state.history} == {1.0}


def test_a_run_stopped_at_any_point_ends_with_the_same_weights(
    start: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = cell_of(self_training__teachers=[{}, {"seed": 1}])
    whole, _ = run(cell, start, digits_split, tmp_path / "whole", lambda: False)
    for steps in (3, 4, 45):  # in the first teacher, again, after the second one
        asked = iter(range(1000))
        with pytest.raises(Interrupted):
            run(cell, start, digits_split, tmp_path / "parts", partial(_is, steps, asked))
    state, _ = run(cell, start, digits_split, tmp_path / "parts", lambda: False)
    ours, theirs = state.tensors(), whole.tensors()
    for name in {n for n in theirs if n.startswith(("model.", "ema.", "method."))}:
        assert torch.equal(ours[name], theirs[name]), name


def test_the_loss_is_the_mean_over_votes_of_images_that_are_sure(digits: Prepared) -> None:
    cell = changed_params(
        method="self_training", self_training__teachers=[{}, {}], self_training__threshold=0.5
    ).cell()
    method = build_method(cell.options, 10, 8)
    assert isinstance(method, SelfTraining)
    source = torch.Generator().manual_seed(0)
    votes = torch.randint(10, (8, 2), generator=source)
    confidence = torch.tensor([0.9, 0.5, 0.4, 0.6, 0.1, 0.2, 0.7, 0.3])
    method.load_state_dict({"votes": votes, "labels": votes[:, 0], "confidence": confidence})
    model = model_of(cell, digits)
    scramble(model)
    images = torch.randn(3, 3, 1, 8, 8, generator=source)
    index = torch.tensor([6, 2, 1])
    batch = Batch(
        labeled=images[0],
        labels=torch.tensor([1, 2, 3]),
        weak=images[1],
        strong=images[2],
        mask_noise=torch.rand(3, 16),
        mix_noise=torch.rand(3, 4),
        unlabeled_index=index,
        progress=0.9,
    )
    out = step_of(method, model, model, batch)
    log_probs = model(images[2]).log_softmax(dim=1).tolist()
    expected = 0.0
    for row, image in zip(log_probs, index.tolist(), strict=True):
        if confidence[image] >= 0.5:
            expected -= sum(row[vote] for vote in votes[image].tolist()) / 2
    assert out.losses["consistency"].item() == pytest.approx(expected / 3, rel=1e-5)
