"""Cross-validation over the labeled images, and the last training, which is on all labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import changed_params, small_rhythm

import semimae
from semimae.calibration import fit_temperature
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints
from semimae.engine.fit import fit
from semimae.engine.folds import Fitted, _mean_scores, fit_run
from semimae.evaluation.fine_tune import fine_tune
from semimae.evaluation.flops import training_flops
from semimae.evaluation.probe import fit_linear, linear_probabilities, probe, standardize
from semimae.ingest.choose import split_for
from semimae.options.cell import Cell

FOLDS = 3
PROBE = changed_params(
    linear_probe__l2=[1e-3, 1e-1, 1.0], linear_probe__max_iter=50, linear_probe__knn_k=3
).linear_probe


def run(cell: Cell, digits: Prepared, folder: Path, **given: Any) -> Fitted:
    options = {"on_row": lambda kind, row: None, "should_stop": lambda: False} | given
    return fit_run(
        cell,
        digits,
        split_for(cell, digits),
        small_rhythm(),
        resume=folder / "resume",
        finished=lambda phase: folder / "phases",
        **options,
    )


def alone(cell: Cell, digits: Prepared, folder: Path, labeled: Any, val: Any) -> Any:
    """Train on labeled images with others held out, as a run without folds does."""
    split = Split(
        fingerprint=digits.info.fingerprint,
        seed=cell.seed,
        label_fraction=None,
        num_labels=len(labeled),
        labeled_list=None,
        listed=None,
        include_labeled=True,
        labeled=tuple(labeled),
        val=tuple(val),
        class_counts=tuple(np.bincount(digits.labels[list(labeled)], minlength=10).tolist()),
        num_unlabeled=0,
    )
    split = split.model_copy(update={"num_unlabeled": len(split.unlabeled(digits))})
    assert split.mistake(digits) is None
    return fit(
        cell.once,
        digits,
        split,
        small_rhythm(),
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
    )


@pytest.fixture(scope="module")
def folded() -> Cell:
    return changed_params(method="fixmatch", refit=True, data__folds=FOLDS).cell()


@pytest.fixture(scope="module")
def fitted(
    folded: Cell, digits: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Fitted, Path]:
    folder = tmp_path_factory.mktemp("folds")
    return run(folded, digits, folder), folder


def test_every_labeled_image_is_judged_once_by_a_model_that_has_not_seen_it(
    folded: Cell, digits: Prepared, fitted: tuple[Fitted, Path], tmp_path: Path
) -> None:
    """One fold's model, trained by hand, says the same of its images, bit for bit."""
    held_out, split = fitted[0].held_out, split_for(folded, digits)
    assert held_out is not None
    assert held_out.rows.tolist() == list(split.labeled)
    fold = list(split.folds[1])
    rest = [row for row in split.labeled if row not in fold]
    state = alone(folded, digits, tmp_path, rest, fold)
    images = torch.from_numpy(digits.images[fold] / 255.0).permute(0, 3, 1, 2)  # type: ignore[index]
    normalized = ((images - digits.info.mean[0]) / digits.info.std[0]).float()
    state.ema.eval()
    with torch.no_grad():
        expected = state.ema(normalized).double().softmax(dim=1)
    theirs = held_out.probabilities[np.isin(held_out.rows, fold)]
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-6)


def test_validation_is_that_of_all_folds_together(
    digits: Prepared, fitted: tuple[Fitted, Path]
) -> None:
    state, before, held_out = fitted[0]
    assert held_out is not None
    assert [row["step"] for row in state.validation] == [3, 6, 8]
    true = digits.labels[held_out.rows]
    last = state.validation[-1]
    right = held_out.probabilities.argmax(dim=1).numpy() == true
    assert last["val/top1"] == pytest.approx(right.mean())
    of_true = held_out.probabilities.numpy()[np.arange(len(true)), true]
    assert last["val/loss"] == pytest.approx(-np.log(of_true).mean())
    assert last["val/temperature"] == fit_temperature(
        held_out.probabilities, torch.from_numpy(true)
    )
    assert [cost["fold"] for cost in before] == [0, 1, 2]
    assert all(cost["steps"] == 8 and cost["seconds"] > 0 for cost in before)


def test_scores_weigh_each_fold_by_its_images_and_pseudo_labels_by_those_in_use() -> None:
    rows = [
        {"val/top1": 0.5, "val/pseudo_coverage": 0.5, "val/pseudo_accuracy": 1.0},
        {"val/top1": 1.0, "val/pseudo_coverage": 0.0, "val/temperature": 2.0},
        {"val/top1": 0.0, "val/pseudo_coverage": 1.0, "val/pseudo_accuracy": 0.4, "seconds": 3.0},
    ]
    found = _mean_scores(rows, [4, 4, 2])
    # 2 and 4 and 0 of 10 are right; of 2 and 2 in use 2 and 0.8.
    assert found == pytest.approx(
        {"val/top1": 0.6, "val/pseudo_coverage": 0.4, "val/pseudo_accuracy": 0.7}
    )
    assert "val/pseudo_accuracy" not in _mean_scores(rows[1:2], [4])


def test_the_last_training_is_on_all_labels(digits: Prepared, tmp_path: Path) -> None:
    """It is the run that has them as labeled images, whatever that one is validated on."""
    cell = changed_params(method="supervised", refit=True, data__folds=2).cell()
    split = split_for(cell, digits)
    others = np.setdiff1d(np.flatnonzero(digits.splits == "train"), split.labeled)[:5].tolist()
    weights = run(cell, digits, tmp_path).state.ema.state_dict()
    expected = alone(cell, digits, tmp_path / "alone", split.labeled, others).ema.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


def test_without_folds_the_validation_images_are_held_out_once(
    digits: Prepared, tmp_path: Path
) -> None:
    params = changed_params(method="supervised", refit=True)
    cell, plain = params.cell(), changed_params(method="supervised").cell()
    split, before = split_for(cell, digits), split_for(plain, digits)
    assert (split.val, split.folds) == ((), (before.val,))
    assert split.labeled == tuple(sorted(before.labeled + before.val))
    assert split.without_fold(0, digits) == before
    fitted = run(cell, digits, tmp_path)
    single = run(plain, digits, tmp_path / "plain")
    assert fitted.held_out is not None
    assert single.held_out is None
    assert fitted.held_out.rows.tolist() == list(before.val)
    names = ("step", "val/top1", "val/loss", "val/temperature")
    ours, theirs = (
        [[row.get(name) for name in names] for row in one.state.validation]
        for one in (fitted, single)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other)


def test_what_is_done_is_not_repeated(
    folded: Cell, digits: Prepared, fitted: tuple[Fitted, Path], tmp_path: Path
) -> None:
    done, folder = fitted
    told: list[int] = []
    again = run(folded, digits, folder, on_fold=lambda number, row: told.append(number))
    assert not told
    assert again.state.validation[-1]["val/top1"] == done.state.validation[-1]["val/top1"]

    def stop(number: int, row: dict[str, float]) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folded, digits, tmp_path, on_fold=stop)
    run(folded, digits, tmp_path, on_fold=lambda number, row: told.append(number))
    assert set(told) == {1, 2}


@pytest.mark.parametrize("method", ["semi_mae", "mae_finetune", "self_training"])
def test_methods_with_branches_phases_and_teachers_have_folds_too(
    method: str, digits: Prepared, tmp_path: Path
) -> None:
    short = {"train__steps": 3, "start__mae_steps": 2, "self_training__teacher_steps": 2}
    cell = changed_params(method=method, refit=True, data__folds=2, **short).cell()
    state, before, held_out = run(cell, digits, tmp_path)
    assert held_out is not None
    assert state.step == 3
    folds = [cost.get("fold") for cost in before]
    phases = len(folds) // 3 if method != "semi_mae" else 0
    assert folds == [0] * (phases + 1) + [1] * (phases + 1) + [None] * phases
    if method == "self_training":
        assert (before[-1]["val_images"], before[-1]["ensemble_top1"]) == (0, None)


def test_the_probes_penalty_is_chosen_on_the_folds(
    folded: Cell, digits: Prepared, fitted: tuple[Fitted, Path], tmp_path: Path
) -> None:
    state, _, held_out = fitted[0]
    split = split_for(folded, digits)
    found = probe(state.ema, folded, digits, split, PROBE, 2.0, held_out)
    assert held_out is not None
    assert (found.predictions["val_label"] == digits.labels[held_out.rows]).all()
    guess = held_out.probabilities.argmax(dim=1).numpy()
    assert (found.predictions["val_predicted"] == guess).all()
    # By hand: the features of all labeled images, of which each fold is left out once.
    rows = np.asarray(split.labeled)
    images = torch.from_numpy(digits.images[rows] / 255.0).permute(0, 3, 1, 2)  # type: ignore[index]
    normalized = ((images - digits.info.mean[0]) / digits.info.std[0]).float()
    with torch.no_grad():
        features = state.ema.eval().backbone.features(normalized)
    x, y = standardize(features, features), torch.from_numpy(digits.labels[rows])
    right = {}
    for l2 in PROBE.l2:
        right[l2] = 0
        for fold in split.folds:
            out = torch.from_numpy(np.isin(rows, fold))
            weight = fit_linear(x[~out], y[~out], 10, l2, PROBE.max_iter)
            right[l2] += int((linear_probabilities(weight, x[out]).argmax(dim=1) == y[out]).sum())
    assert right[found.scores["l2"]] == max(right.values())
    tuned = fine_tune(
        state.model,
        folded,
        digits,
        split,
        changed_params(fine_tune__steps=2).fine_tune,
        small_rhythm(),
        checkpoints=Checkpoints(tmp_path),
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
    )
    assert tuned["validation"] == []


def test_operations_of_all_trainings_count(folded: Cell) -> None:
    assert folded.trainings == FOLDS + 1
    assert training_flops(folded, 10) == (FOLDS + 1) * training_flops(folded.once, 10)


def test_the_library_trains_folds_as_well(digits: Prepared, tmp_path: Path) -> None:
    cell = changed_params(method="supervised", refit=True, data__folds=2, train__steps=3).cell()
    fit_here: Callable[..., Any] = semimae.fit
    trained = fit_here(cell, digits, split_for(cell, digits), small_rhythm(), tmp_path)
    assert trained.info.cell == cell
    assert trained.info.temperature is not None  # of 40 images
