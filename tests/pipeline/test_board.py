"""What people see of a whole grid and of one stage, on a terminal and in a log file."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from stages import Workspace

from pipeline import board as board_module
from pipeline import progress as progress_module
from pipeline.board import Board, describe
from pipeline.noted import FINISHED, status_file, write_status
from pipeline.progress import Pace, bars, duration, progress
from pipeline.workspace import write_json

NOTE = "img/s 850  loss 0.312  mim 0.207  used 0.900  right 0.800  val 0.700"


class Clock:
    """Takes the place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def say(root: Path, name: str, **values: object) -> None:
    path = status_file(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_status(path, **values)


def took(root: Path, **seconds: float) -> None:
    for stage, value in seconds.items():
        values = {"read": {}, "written": {}, "seconds": value}
        write_json(root / ".semimae/cells/headline" / f"{stage}.json", values)


def test_a_log_file_has_a_line_a_minute_with_the_time_left_and_each_running_cell(
    tmp_path: Path, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    Workspace(tmp_path, cells=4)
    stages = dict.fromkeys(["headline", "seed-1", "seed-2", "seed-3"], ("train", "linear_probe"))
    with Board(tmp_path, stages, jobs=2) as board:
        assert board.left() is None  # nothing has been measured
        board.update(["headline"])
        clock.now = 59.0
        board.update(["headline"])
        assert capfd.readouterr().err == ""
        say(tmp_path, "headline", title="train", done=4, total=8, left=20.0, note="img/s 850")
        clock.now = 60.0
        board.update(["headline", "seed-1"])
        # Of headline 20 s are left, at 5 s a step; the others have 8 steps each, two at a time.
        assert capfd.readouterr().err == (
            "0 of 4 cells done, about 70 s left\n"
            "  headline: step 4 of 8, img/s 850, 20 s left; log: .semimae/cells/headline/log.txt\n"
            "  seed-1: is starting; log: .semimae/cells/seed-1/log.txt\n"
        )
        took(tmp_path, train=30.0, linear_probe=10.0)
        board.ended("headline", well=True)
        board.ended("seed-1", well=False)
        clock.now = 125.0
        board.update([])
        assert capfd.readouterr().err == "1 of 4 cells done, 1 failed, about 40 s left\n"
        say(tmp_path, "seed-2", title=FINISHED, done=1, total=1, left=0.0)  # not yet recorded
        clock.now = 190.0
        board.update(["seed-2"])
        assert capfd.readouterr().err.splitlines() == [
            "1 of 4 cells done, 1 failed, about 40 s left",
            "  seed-2: finished; log: .semimae/cells/seed-2/log.txt",
        ]


def test_what_cells_took_before_tells_how_long_it_will_take(tmp_path: Path) -> None:
    """Also of a grid that was begun by a process that is gone."""
    Workspace(tmp_path, cells=3)
    took(tmp_path, train=30.0, linear_probe=10.0)
    stages = {"headline": ("linear_probe",), "seed-1": ("train",), "seed-2": ("train",)}
    assert Board(tmp_path, stages, jobs=1).left() == pytest.approx(2 * 40.0)
    assert Board(tmp_path, stages, jobs=2).left() == pytest.approx(40.0)


def test_words_for_how_far_a_cell_is() -> None:
    assert describe({}) == "is starting"
    assert describe({"title": "linear_probe"}) == "linear_probe"
    assert describe({"title": FINISHED, "done": 1, "total": 1, "left": 0.0}) == "finished"
    assert describe({"title": "train", "done": 3, "total": 8, "left": None}) == "step 3 of 8"
    assert duration(89) == "89 s"
    assert duration(600) == "10 min"
    assert duration(3 * 3600 + 300) == "3 h 05 min"


def test_a_stage_in_a_log_file_says_how_far_it_is_every_minute(
    clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SEMIMAE_QUIET", raising=False)
    monkeypatch.setenv("SEMIMAE_STATUS", str(tmp_path / "status.json"))
    with progress("fixmatch s0", 100) as update:
        update(0)
        clock.now = 30.0
        update(10)
        assert capfd.readouterr().err == ""
        clock.now = 60.0
        update(20, NOTE)
    assert capfd.readouterr().err == f"fixmatch s0: 20 of 100, 4 min left, {NOTE}\n"
    assert '"left": 240.0' in (tmp_path / "status.json").read_text()


def test_the_pace_counts_from_where_a_run_continues(clock: Clock) -> None:
    pace = Pace()
    assert pace(50, 100) is None
    clock.now = 10.0
    assert pace(60, 100) == pytest.approx(40.0)
    assert pace(60, None) is None


@pytest.mark.parametrize("width", [80, 200])
def test_at_80_columns_the_bar_and_the_time_left_stay_and_metrics_give_way(width: int) -> None:
    output = io.StringIO()
    bar = bars(hidden=False)
    bar.live.console = Console(file=output, width=width, force_terminal=True, color_system=None)
    bar.live.auto_refresh = False
    with bar:
        bar.add_task(
            "semi_mae m0.75 f0.04 s0", total=240, completed=120, left="50 s left", note=NOTE
        )
    lines = [line for line in output.getvalue().split("\n") if "semi_mae" in line]
    assert len(lines) == 1  # not wrapped
    line = lines[0]
    assert "━━━━" in line
    assert "120/240" in line
    assert "50 s left" in line
    assert ("val 0.700" in line) == (width == 200)
    assert board_module.bars is bars  # the grid's are the same
