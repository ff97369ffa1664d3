"""A run that is stopped and continued ends as if it had never been stopped, bit for bit."""

import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import REGULARIZED, WITH_OWN_PHASE, small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.fit import fit
from semimae.options.cell import Cell
from semimae.types import Interrupted

STEPS = 8
Rows = list[tuple[str, Row]]
Fit = Callable[..., tuple[TrainState, Rows]]


@pytest.fixture(scope="module")
def fit_until(digits: Prepared, digits_split: Split) -> Fit:
    """Train with all objects fresh, as a new process would."""

    def attempt(cell: Cell, folder: Path, num_steps: int | None) -> tuple[TrainState, Rows]:
        rows: Rows = []
        countdown = iter(range(num_steps - 1, -1, -1) if num_steps else ())
        state = fit(
            cell,
            digits,
            digits_split,
            small_rhythm(),
            checkpoints=Checkpoints(folder),
            on_row=lambda kind, row: rows.append((kind, row)),
            should_stop=lambda: next(countdown, None) == 0,
        )
        return state, rows

    def run(cell: Cell, folder: Path, stops: Iterable[int] = ()) -> tuple[TrainState, Rows]:
        for start, stop in itertools.pairwise([0, *sorted(stops)]):
            torch.manual_seed(stop)  # the state of the global generator must not matter
            with pytest.raises(Interrupted, match=f"stopped after step {stop};"):
                attempt(cell, folder, stop - start)
        return attempt(cell, folder, None)

    return run


def without_clock(rows: Iterable[Row]) -> list[Row]:
    return [
        {
            k: v
            for k, v in row.items()
            if k not in ("time_ms", "seconds", "cpu_seconds", "data_wait")
        }
        for row in rows
    ]


def assert_same(one: TrainState, other: TrainState) -> None:
    ours, theirs = one.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert one.step == other.step == STEPS
    assert without_clock(one.history) == without_clock(other.history)
    assert without_clock(one.validation) == without_clock(other.validation)


@pytest.fixture(scope="module")
def whole(
    small_cell: Callable[..., Cell],
    fit_until: Fit,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[TrainState, Rows]:
    return fit_until(small_cell("semi_mae"), tmp_path_factory.mktemp("whole"))


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(stops=st.sets(st.integers(1, STEPS), min_size=1, max_size=4))
def test_stopped_anywhere(
    stops: set[int],
    whole: tuple[TrainState, Rows],
    small_cell: Callable[..., Cell],
    fit_until: Fit,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    state, rows = fit_until(small_cell("semi_mae"), tmp_path_factory.mktemp("parts"), stops)
    assert_same(state, whole[0])
    # whoever watches the last attempt has seen the whole run
    for kind in ("train", "val"):
        expected = [row for k, row in whole[1] if k == kind]
        got = [row for k, row in rows if k == kind]
        assert without_clock(got) == without_clock(expected)


@pytest.mark.parametrize("method", WITH_OWN_PHASE)
def test_every_method_continues_with_its_state(
    method: str, small_cell: Callable[..., Cell], fit_until: Fit, tmp_path: Path
) -> None:
    cell = small_cell(method, ssmae__gate_accuracy=0.0, pseudo_label__threshold=0.11)
    expected, _ = fit_until(cell, tmp_path / "whole")
    state, _ = fit_until(cell, tmp_path / "parts", [4, 5])
    assert_same(state, expected)


def test_batch_norm_continues_with_its_statistics(
    small_cell: Callable[..., Cell], fit_until: Fit, tmp_path: Path
) -> None:
    backbone = {"name": "cnn", "width": 4, "depth": 2, "weights": None}
    cell = small_cell("fixmatch", backbone=backbone, pseudo_label__threshold=0.11)
    expected, _ = fit_until(cell, tmp_path / "whole")
    state, _ = fit_until(cell, tmp_path / "parts", [4, 5])
    assert_same(state, expected)


@pytest.mark.parametrize("method", ["supervised", "semi_mae"])
def test_a_run_with_everything_that_regularizes_continues(
    method: str, small_cell: Callable[..., Cell], fit_until: Fit, tmp_path: Path
) -> None:
    cell = small_cell(method, pseudo_label__threshold=0.11, **REGULARIZED)
    expected, _ = fit_until(cell, tmp_path / "whole")
    state, _ = fit_until(cell, tmp_path / "parts", [2, 3, 7])
    assert_same(state, expected)


def test_what_regularizes_and_weighs_continues_too(
    small_cell: Callable[..., Cell], fit_until: Fit, tmp_path: Path
) -> None:
    """Stopped right behind a measurement of gradients, and between two."""
    cell = small_cell(
        "semi_mae",
        pseudo_label__threshold=0.11,
        pseudo_label__mixup=True,
        mim__weighting="gradient",
        mim__weighting_every=3,
        train__drop_path=0.4,
        train__ema_warmup=False,
        train__accumulate=2,
        train__recompute=True,
        optim__grad_clip=None,
        **REGULARIZED,
    )
    expected, _ = fit_until(cell, tmp_path / "whole")
    state, _ = fit_until(cell, tmp_path / "parts", [4, 6])
    assert_same(state, expected)
    assert "clipped" not in state.history[-1]


def test_a_run_depends_on_its_seed(
    whole: tuple[TrainState, Rows],
    small_cell: Callable[..., Cell],
    fit_until: Fit,
    tmp_path: Path,
) -> None:
    other, _ = fit_until(small_cell("semi_mae", seed=1), tmp_path)
    assert without_clock(other.history) != without_clock(whole[0].history)


# --- damaged checkpoints


def flip_a_byte(json_file: Path, data: Path) -> None:
    content = bytearray(data.read_bytes())
    content[-5] ^= 1
    data.write_bytes(content)


def truncate(json_file: Path, data: Path) -> None:
    data.write_bytes(data.read_bytes()[:1000])


def empty(json_file: Path, data: Path) -> None:
    data.write_bytes(b"")


def remove_data(json_file: Path, data: Path) -> None:
    data.unlink()


def remove_json(json_file: Path, data: Path) -> None:
    json_file.unlink()


def truncate_json(json_file: Path, data: Path) -> None:
    json_file.write_text(json_file.read_text()[:-10])


def change_the_step(json_file: Path, data: Path) -> None:
    """One flipped bit in the record, which still is valid JSON."""
    text = json_file.read_text()
    assert text.count('"step": 7') == 1
    json_file.write_text(text.replace('"step": 7', '"step": 5'))


def other_json(json_file: Path, data: Path) -> None:
    json_file.write_text("[1, 2]")


def record_without_rows(json_file: Path, data: Path) -> None:
    record = json.loads(json_file.read_text())
    del record["record"]["history"]
    json_file.write_text(json.dumps(record))


def zero(json_file: Path, data: Path) -> None:
    """The rename reached the disk, the content did not."""
    data.write_bytes(bytes(data.stat().st_size))


def zero_json(json_file: Path, data: Path) -> None:
    json_file.write_bytes(bytes(json_file.stat().st_size))


def unfinished(json_file: Path, data: Path) -> None:
    """The power failed while the file was written that would have replaced this one."""
    json_file.unlink()
    data.rename(data.with_name(f".{data.name}.tmp"))


DAMAGES = [
    zero,
    zero_json,
    unfinished,
    flip_a_byte,
    truncate,
    empty,
    remove_data,
    remove_json,
    truncate_json,
    change_the_step,
    other_json,
    record_without_rows,
]


@pytest.fixture(scope="module")
def stopped(
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The checkpoints of a run that saved at steps 3 and 6 and was stopped after step 7."""
    folder = tmp_path_factory.mktemp("stopped")
    countdown = iter(range(6, -1, -1))
    with pytest.raises(Interrupted):
        fit(
            small_cell("semi_mae"),
            digits,
            digits_split,
            small_rhythm(),
            checkpoints=Checkpoints(folder),
            on_row=lambda kind, row: None,
            should_stop=lambda: next(countdown) == 0,
        )
    return folder


def files(folder: Path, step: int) -> tuple[Path, Path]:
    stem = folder / f"step-{step:09d}"
    return stem.with_suffix(".json"), stem.with_suffix(".safetensors")


def test_the_two_newest_checkpoints_are_kept(stopped: Path) -> None:
    assert set(stopped.iterdir()) == {*files(stopped, 6), *files(stopped, 7)}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path, Path], None],
    stopped: Path,
    whole: tuple[TrainState, Rows],
    small_cell: Callable[..., Cell],
    fit_until: Fit,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    damage(*files(folder, 7))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state, rows = fit_until(small_cell("semi_mae"), folder)
    messages = [str(w.message) for w in caught]
    if damage in (remove_json, unfinished):  # then it never counted
        assert not messages
    else:
        (message,) = messages
        assert "step-000000007" in message
        assert "is passed over" in message
    assert_same(state, whole[0])
    assert len(rows) == len(whole[1])


class StopAfter:
    """Asks to stop from the nth time on that it is asked."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_damaged_checkpoint_does_not_push_out_the_sound_one(
    stopped: Path,
    small_cell: Callable[..., Cell],
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    truncate(*files(folder, 7))
    with pytest.raises(Interrupted, match="step 8"), pytest.warns(UserWarning, match="passed over"):
        fit(
            small_cell("semi_mae"),
            digits,
            digits_split,
            small_rhythm(),
            checkpoints=Checkpoints(folder),
            on_row=lambda kind, row: None,
            should_stop=StopAfter(1),
        )
    assert set(folder.iterdir()) == {*files(folder, 6), *files(folder, 8)}


@pytest.mark.parametrize("asked", [3, 4, 20])
def test_a_stop_interrupts_the_evaluation_too(
    asked: int,
    whole: tuple[TrainState, Rows],
    small_cell: Callable[..., Cell],
    fit_until: Fit,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("semimae.engine.infer.EVAL_BATCH", 10)
    assert len(digits_split.val) > 20 * 10  # asked 3 times by then, and 20 times in it
    with pytest.raises(Interrupted, match="stopped after step 3;"):
        fit(
            small_cell("semi_mae"),
            digits,
            digits_split,
            small_rhythm(),
            checkpoints=Checkpoints(tmp_path),
            on_row=lambda kind, row: None,
            should_stop=StopAfter(asked),
        )
    monkeypatch.undo()  # sums of other batches differ in their last bits
    state, _ = fit_until(small_cell("semi_mae"), tmp_path)
    assert_same(state, whole[0])


def test_without_any_sound_checkpoint_the_run_starts_afresh(
    stopped: Path,
    whole: tuple[TrainState, Rows],
    small_cell: Callable[..., Cell],
    fit_until: Fit,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped, folder)
    flip_a_byte(*files(folder, 6))
    truncate_json(*files(folder, 7))
    with pytest.warns(UserWarning, match="is passed over") as caught:
        state, _ = fit_until(small_cell("semi_mae"), folder)
    assert len(caught) == 2
    assert_same(state, whole[0])
