"""The least that there can be: of labels, of images, of confidence. Every method, end to end."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import section, small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.fit import fit
from semimae.engine.memory import images_fit
from semimae.engine.phases import fit_phases
from semimae.evaluation.probe import probe
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.types import UserError

MakeCell = Callable[..., Cell]
SHORT = {"train__steps": 3, "start__mae_steps": 2, "start__supervised_steps": 2}
every_method = pytest.mark.parametrize("method", METHODS)


def subset(digits: Prepared, rows: list[int]) -> Prepared:
    """Some images of a data set, as a data set."""
    assert digits.images is not None
    counts = {split: int((digits.splits[rows] == split).sum()) for split in digits.info.counts}
    return replace(
        digits,
        info=digits.info.model_copy(update={"counts": counts}),
        names=[digits.names[row] for row in rows],
        labels=digits.labels[rows],
        splits=digits.splits[rows],
        images=np.array(digits.images[rows]),
    )


def split_of(prepared: Prepared, labeled: list[int], val: list[int], include: bool = True) -> Split:
    made = Split(
        fingerprint=prepared.info.fingerprint,
        seed=0,
        label_fraction=None,
        num_labels=len(labeled),
        labeled_list=None,
        listed=None,
        include_labeled=include,
        labeled=tuple(labeled),
        val=tuple(val),
        class_counts=tuple(np.bincount(prepared.labels[labeled], minlength=10).tolist()),
        num_unlabeled=0,
    )
    made = made.model_copy(update={"num_unlabeled": len(made.unlabeled(prepared))})
    assert made.mistake(prepared) is None
    return made


def train_rows(digits: Prepared, count: int) -> list[int]:
    return np.flatnonzero(digits.splits == "train")[:count].tolist()


def run(cell: Cell, prepared: Prepared, split: Split, folder: Path) -> TrainState:
    state, _ = fit_phases(
        cell,
        prepared,
        split,
        small_rhythm(),
        resume=folder / "resume",
        finished=lambda phase: folder / "finished",
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
    )
    assert state.step == cell.train.steps
    json.dumps([state.history, state.validation], allow_nan=False)
    assert all(p.isfinite().all() for p in state.ema.parameters())
    assert "bad_steps" not in state.history[-1]
    return state


@every_method
def test_no_confident_pseudo_label(
    method: str, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """The labeled term, and the reconstruction, train alone."""
    start = {"pseudo_label__threshold": 1.0, "pseudo_label__threshold_start": 1.0}
    state = run(small_cell(method, **SHORT, **start), digits, digits_split, tmp_path)
    row = state.history[-1]
    if method in ("fixmatch", "semi_mae", "ssmae"):
        assert row["pseudo/coverage"] == row["loss/consistency"] == 0
        assert "pseudo/accuracy" not in row  # of no labels there is none
        assert row["loss/total"] > 0


@every_method
def test_a_class_without_labels(
    method: str, small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    rows = train_rows(digits, 60)
    labels = digits.labels[rows]
    labeled = [row for row, label in zip(rows, labels, strict=True) if label < 5][:12]
    split = split_of(digits, labeled, [row for row in rows if row not in labeled][:20])
    assert split.class_counts[5:] == (0,) * 5
    cell = small_cell(
        method, **SHORT, pseudo_label__threshold=0.11, pseudo_label__alignment="labeled"
    )
    run(cell, digits, split, tmp_path)


@every_method
def test_one_labeled_one_validation_image_and_a_batch_larger_than_the_set(
    method: str, small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    """No image beyond the labeled one is left: it is also the only unlabeled one."""
    prepared = subset(digits, train_rows(digits, 2))
    split = split_of(prepared, [0], [1])
    assert split.num_unlabeled == 1
    cell = small_cell(
        method, **SHORT, train__batch_size=3, train__mu=2, pseudo_label__threshold=0.0
    )
    run(cell, prepared, split, tmp_path)


@every_method
def test_one_image_per_step_and_more_micro_batches_than_images(
    method: str, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    options = {"train__batch_size": 1, "train__mu": 1, "train__accumulate": 3}
    cell = small_cell(method, **SHORT, **options, pseudo_label__threshold=0.0)
    run(cell, digits, digits_split, tmp_path)


@every_method
def test_without_unlabeled_images_a_method_that_needs_them_is_refused(
    method: str, small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    prepared = subset(digits, train_rows(digits, 13))
    split = split_of(prepared, list(range(12)), [12], include=False)
    assert split.num_unlabeled == 0
    cell = small_cell(method, **SHORT)
    if method == "supervised":
        run(cell, prepared, split, tmp_path)
        return
    with pytest.raises(UserError, match=r"needs unlabeled images .* data\.include_labeled: true"):
        run(cell, prepared, split, tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not left


def test_scores_with_one_labeled_and_one_test_image(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    tests = np.flatnonzero(digits.splits == "test")[:1].tolist()
    prepared = subset(digits, sorted([*train_rows(digits, 2), *tests]))
    labeled, val = np.flatnonzero(prepared.splits == "train").tolist()
    split = split_of(prepared, [labeled], [val])
    cell = small_cell("supervised", **SHORT)
    state = run(cell, prepared, split, tmp_path)
    changes = {"l2": [1.0], "max_iter": 5, "knn_k": 99, "knn_temperature": 0.001}
    config = section("linear_probe", **changes)
    result = probe(state.ema, cell, prepared, split, config).scores
    json.dumps(result, allow_nan=False)
    knn = result["protocols"]["knn"]
    assert knn["num_images"] == 1
    sure = int(prepared.labels[labeled]) == int(prepared.labels[split.test(prepared)[0]])
    assert knn["top1"]["value"] == float(sure)  # the one neighbor has all votes


# --- runs that cannot be


@pytest.mark.parametrize(
    "changes",
    [
        {"train__batch_size": 2**20, "train__mu": 1000},
        {"data__image_size": 4096, "train__batch_size": 100_000},
        {
            "backbone__embed_dim": 4096,
            "backbone__depth": 64,
            "backbone__num_heads": 1,
            "train__batch_size": 100_000,
        },
        {"data__image_size": 4096, "backbone__patch_size": 1, "train__batch_size": 4096},
        {
            "data__image_size": 4096,
            "backbone": {"name": "cnn", "width": 1024, "depth": 1, "weights": None},
        },
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_tried(
    changes: dict[str, object],
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
) -> None:
    cell = small_cell("fixmatch", **changes)
    with pytest.raises(UserError, match=r"a step needs \d+ GiB at least.*lower train\.batch_size"):
        run(cell, digits, digits_split, tmp_path)


@pytest.mark.parametrize(("free", "fits"), [(10**6, True), (10**5, False)])
def test_packed_images_stay_on_the_host_where_a_gpu_has_no_room(
    free: int, fits: bool, small_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 images of 64 bytes; the small model and its views take less than 100 kB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert images_fit(small_cell("fixmatch"), 1000, torch.device("cuda")) is fits
    assert images_fit(small_cell("fixmatch"), 10**9, torch.device("cpu"))


def test_a_step_that_runs_out_of_memory_says_what_to_do(
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("semimae.engine.fit.train", fail)
    with pytest.raises(UserError, match=r"step 1 does not .* 9 GiB\); raise train\.accumulate"):
        fit(
            small_cell("fixmatch"),
            digits,
            digits_split,
            small_rhythm(),
            checkpoints=Checkpoints(tmp_path),
            on_row=lambda kind, row: None,
            should_stop=lambda: False,
        )
