"""Methods of several phases: which phases there are, and that finished ones are shared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.distributed import World
from semimae.engine import phases as engine
from semimae.engine.checkpoint import TrainState
from semimae.engine.phases import fit_phases, phase_key, phases
from semimae.files import held_lock
from semimae.ingest.choose import make_split
from semimae.model_file import open_model
from semimae.options.cell import Cell
from semimae.options.method import SemiViTOptions
from semimae.types import Interrupted

MakeCell = Callable[..., Cell]


def run(
    cell: Cell, prepared: Prepared, split: Split, folder: Path, stop: Callable[[], bool]
) -> tuple[TrainState, list[dict[str, Any]]]:
    return fit_phases(
        cell,
        prepared,
        split,
        small_rhythm(train__save_every=2),
        resume=folder / "resume" / cell.name,
        finished=lambda phase: folder / "phases",
        on_row=lambda kind, row: None,
        should_stop=stop,
    )


def never() -> bool:
    return False


def test_phases_take_their_steps_and_only_the_sections_they_read(small_cell: MakeCell) -> None:
    cell = small_cell("semi_vit", start__mae_steps=5, start__supervised_steps=4, train__steps=3)
    first, second, last = phases(cell)
    assert [p.method for p in (first, second, last)] == ["mae", "supervised", "semi_vit"]
    assert [p.train.steps for p in (first, second, last)] == [5, 4, 3]
    assert first.mim is not None
    assert first.mask_ratio == cell.mask_ratio
    assert second.mim is None
    assert second.options.model_dump().keys() == {"name", "labeled"}
    assert second.labeled == cell.labeled
    assert last.mim is None
    assert isinstance(cell.options, SemiViTOptions)
    assert isinstance(last.options, SemiViTOptions)
    assert last.options.pseudo_label == cell.options.pseudo_label


def test_the_average_warms_up_until_a_phase_has_trained_the_classifier(
    small_cell: MakeCell,
) -> None:
    steps = {"start__mae_steps": 5, "start__supervised_steps": 4}
    cell = small_cell("semi_vit", **steps)
    assert [p.train.ema_warmup for p in phases(cell)] == [True, True, False]
    without = small_cell("semi_vit", **steps | {"start__supervised_steps": 0})
    assert [p.train.ema_warmup for p in phases(without)] == [True, True]
    assert [p.train.ema_warmup for p in phases(small_cell("mae_finetune"))] == [True, True]
    never_warm = small_cell("semi_vit", train__ema_warmup=False, **steps)
    assert not any(p.train.ema_warmup for p in phases(never_warm))


def test_the_teacher_of_the_last_phase_is_the_fine_tuned_average(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """After n steps it still has the share that its decay leaves it: ``decay ** n``."""
    cell = small_cell("semi_vit", train__steps=6, train__ema_decay=0.9999, optim__lr=1e-2)
    state, _ = run(cell, digits, digits_split, tmp_path, never)
    (start,) = [
        open_model(path).model
        for path in (tmp_path / "phases").glob("*.safetensors")
        if open_model(path).info.cell.method == "supervised"
    ]
    students = dict(state.model.named_parameters())
    averages = dict(state.ema.named_parameters())
    for name, before in start.named_parameters():
        moved = (averages[name] - before).norm()
        assert moved <= 2 * (1 - 0.9999**6) * (students[name] - before).norm() + 1e-6, name


def test_pretraining_is_shared_by_rates_of_stochastic_depth(small_cell: MakeCell) -> None:
    cells = [phases(small_cell("semi_vit", train__drop_path=rate)) for rate in (0.0, 0.2)]
    assert cells[0][0] == cells[1][0]
    assert cells[0][1] != cells[1][1]
    assert phases(small_cell("mae", train__drop_path=0.2)) == phases(small_cell("mae"))


def test_a_phase_of_no_steps_is_left_out(small_cell: MakeCell) -> None:
    cell = small_cell("semi_vit", start__mae_steps=0, start__supervised_steps=4)
    assert [p.method for p in phases(cell)] == ["supervised", "semi_vit"]
    assert phases(small_cell("fixmatch")) == [small_cell("fixmatch")]


def test_pretraining_is_shared_by_cells_with_other_labels(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    keys = set()
    for labels in (40, 80):
        cell = small_cell("mae_finetune", num_labels=labels, start__mae_steps=3, train__steps=2)
        split = make_split(
            digits, seed=0, num_labels=labels, val_fraction=0.15, include_labeled=True
        )
        keys.add(phase_key(phases(cell)[0], digits, split))
        run(cell, digits, split, tmp_path, never)
    assert len(keys) == 1
    assert len(list((tmp_path / "phases").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("method", ["mae_finetune", "semi_vit"])
@pytest.mark.parametrize("stop_at", [2, 5, 7])
def test_a_run_stopped_in_any_phase_ends_with_the_same_weights(
    method: str,
    stop_at: int,
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
) -> None:
    cell = small_cell(method, start__mae_steps=3, start__supervised_steps=3, train__steps=5)
    whole, costs = run(cell, digits, digits_split, tmp_path / "whole", never)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    with pytest.raises(Interrupted):
        run(cell, digits, digits_split, tmp_path / "parts", stop)
    again, costs_again = run(cell, digits, digits_split, tmp_path / "parts", never)
    counts = [[phase[k] for k in ("method", "steps", "images")] for phase in costs]
    assert counts == [[phase[k] for k in ("method", "steps", "images")] for phase in costs_again]
    assert all(phase["cpu_seconds"] > 0 for phase in costs + costs_again)
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, again.ema.state_dict()[name]), name


def test_the_last_phase_starts_from_the_weights_of_the_one_before(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    starts = {}
    for steps in (2, 30):
        cell = small_cell("mae_finetune", start__mae_steps=steps)
        # The only step of the last phase is the first of its warm-up, with a learning rate of 0.
        one_step = cell.train.model_copy(update={"steps": 1})
        cell = cell.model_copy(update={"train": one_step})
        state, _ = run(cell, digits, digits_split, tmp_path / str(steps), never)
        starts[steps] = state.model.state_dict()["backbone.vit.blocks.0.mlp.fc1.weight"]
    assert not torch.allclose(starts[2], starts[30])


def test_a_finished_phase_that_is_damaged_is_trained_again(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = small_cell("mae_finetune", start__mae_steps=3, train__steps=3)
    whole, _ = run(cell, digits, digits_split, tmp_path, never)
    (path,) = (tmp_path / "phases").glob("*.safetensors")
    sound = path.read_bytes()
    for damaged in (b"", bytes(len(sound)), sound[:-100], sound[:-1] + bytes([sound[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged; the phase is trained again"):
            again, _ = run(cell, digits, digits_split, tmp_path, never)
        assert path.read_bytes() == sound
        for name, value in whole.ema.state_dict().items():
            assert torch.equal(value, again.ema.state_dict()[name]), name


# --- several processes


class Peers:
    """The news of the first process, as another one hears it."""

    def __init__(self, rank: int, news: list[int]) -> None:
        self.world, self.news, self.told = World(rank, 2), news, []  # type: ignore[var-annotated]

    def from_first(self, number: int) -> int:
        if self.world.rank:
            return self.news.pop(0)
        self.told.append(number)
        return number


def test_processes_hear_that_the_first_one_waits_for_another_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hears nothing for half an hour gives up."""
    held, waiting, stopped = engine._HELD, engine._WAITING, engine._STOPPED

    def become(rank: int, news: list[int]) -> Peers:
        peers = Peers(rank, news)
        monkeypatch.setattr(engine, "world", lambda: peers.world)
        monkeypatch.setattr(engine, "from_first", peers.from_first)
        return peers

    other = become(1, [waiting, waiting, held])
    with engine.lock_for_all(tmp_path / "a.lock", never):
        assert other.news == []
    become(1, [waiting, stopped])
    with pytest.raises(Interrupted), engine.lock_for_all(tmp_path / "a.lock", never):
        pass
    first = become(0, [])
    with held_lock(tmp_path / "a.lock", never):
        asked = iter([False, False, True])
        with (
            pytest.raises(Interrupted),
            engine.lock_for_all(tmp_path / "a.lock", lambda: next(asked)),
        ):
            pass
    assert first.told == [waiting, waiting, stopped]
    with engine.lock_for_all(tmp_path / "a.lock", never):
        assert first.told[-1] == held
