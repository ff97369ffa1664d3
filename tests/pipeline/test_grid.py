"""grid runs each distinct cell that has something to do, once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from stages import Workspace
from support import PATIENCE, REPO, changed_params, wait_until

from pipeline import coordinator, grid, workers
from pipeline.coordinator import Coordinator, first_of_equal
from pipeline.noted import dvc_name
from semimae.options.params import Params
from semimae.types import UserError

CNN = {"name": "cnn", "width": 4, "depth": 2, "weights": None}


def test_of_equal_cells_the_first_with_work_runs_all_of_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Plain before heavy, as in the grid; a-0 is what an earlier version of dvc.yaml wrote.
    heavy, plain, twin, probed, cnn = (
        f"{cell}-images-{variant}"
        for cell, variant in (
            ("supervised-0.5-0.1-0", "heavy"),
            ("supervised-0.5-0.1-0", "plain"),
            ("semi_mae-0.5-0.1-0", "plain"),
            ("semi_mae-0.5-0.1-1", "plain"),
            ("supervised-0.5-0.1-0", "cnn"),
        )
    )
    cells = {"a-0": "a", heavy: "a", plain: "a", twin: "h", "headline": "h", probed: "c"}
    cells[cnn] = "b"
    for name, content in cells.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "split.json"):
            (folder / file).write_text(content)
    (tmp_path / "runs" / "half-removed").mkdir()
    (tmp_path / "runs" / ".gitignore").touch()
    steps = ("train", "linear_probe")
    changed = {f"grid_{step}@{name}" for step in steps for name in (heavy, plain, twin)}
    changed |= {"train", "linear_probe", "fine_tune", f"grid_linear_probe@{probed}", "report"}
    changed |= {f"baseline_{step}@{cnn}" for step in steps}
    params = changed_params(
        ablation__method=["supervised", "semi_mae"],
        ablation__mask_ratio=[0.5],
        ablation__label_fraction=[0.1],
        ablation__seed=[0, 1],
        ablation__variant=["plain", "heavy"],
        ablation__changes={"heavy": {"mim": {"lambda_mim": 10.0}}, "cnn": {"backbone": CNN}},
        ablation__baseline__variant=["cnn"],
    )
    run = Coordinator(tmp_path, params, FakeLock(changed), threading.Event())
    assert first_of_equal(tmp_path, run.pending(changed)) == [
        ("headline", ("train", "linear_probe", "fine_tune")),  # before its twin
        (plain, steps),
        (probed, ("linear_probe",)),
        (cnn, steps),
    ]


WORKER = """
import json, os, pathlib, signal, sys, time
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
fails, deaths = sys.argv[1], sys.argv[2:]
for line in sys.stdin:
    name = json.loads(line)["name"]
    answer = {"status": int(name == fails), "line": ""}
    begun = pathlib.Path(name + ".begun")
    with begun.open("a") as file:
        print(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"), file=file)
    if deaths.count(name) >= len(begun.read_text().split()):
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        while not answer["status"] and not pathlib.Path("finish").exists():
            time.sleep(0.01)
    except KeyboardInterrupt:
        answer = {"status": 130, "line": "stopped after step 7"}
    print(json.dumps(answer), flush=True)
"""
GRID = """
import sys
from pathlib import Path
import pipeline.__main__
from pipeline import coordinator, workers
from pipeline.workspace import stop_requests
from semimae.options.params import Params
from types import SimpleNamespace
workers._COMMAND = [sys.executable, "worker.py", "none"]
def run():
    with stop_requests() as stopped:
        lock = SimpleNamespace(changed=lambda: set(sys.argv[1:]), restore=lambda groups: set())
        lock.record = lambda names: None
        run = coordinator.Coordinator(Path(), Params.read(Path("params.yaml")), lock, stopped)
        with workers.Workers(Path(), [None, None]) as pool:
            run.cells(pool)
pipeline.__main__.app = run
pipeline.__main__.main()
"""


class FakeLock:
    """Knows which stages have changed, and has no results of earlier runs."""

    def __init__(self, changed: set[str]) -> None:
        self.stages = changed
        self.recorded: list[str] = []

    def changed(self) -> set[str]:
        return self.stages

    def restore(self, groups: object) -> set[str]:
        return set()

    def record(self, names: list[str], *, run_cache: bool = True) -> None:
        self.recorded += names


def changed_of(root: Path) -> set[str]:
    folders = [path.name for path in (root / "runs").glob("*/")]
    return {dvc_name(folder, step, []) for folder in folders for step in ("train", "linear_probe")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_stop_reaches_the_workers_and_says_what_they_saved(
    number: signal.Signals, tmp_path: Path
) -> None:
    """SIGTERM is sent to the one process alone, by a batch system or a container's stop."""
    Workspace(tmp_path, cells=3)
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(REPO), "MAKELEVEL": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", GRID, *changed_of(tmp_path)],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        begun = lambda: len(list(tmp_path.glob("*.begun"))) == 2  # noqa: E731
        wait_until(begun, lambda: process.poll() is None)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert said.splitlines()[:2] == [
        "Cells to train or score: 3, 2 at a time.",
        "Stopping: 2 cells save a checkpoint first.",
    ]
    assert set(said.splitlines()[2:4]) == {
        "headline: stopped after step 7",
        "seed-1: stopped after step 7",
    }
    assert said.splitlines()[4:] == [
        "Stopped: 0 of 3 cells are done and recorded. `make repro` continues."
    ]
    assert not (tmp_path / "seed-2.begun").exists()


def run_fakes(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    places: list[str | None],
    *deaths: str,
    fails: str = "none",
) -> FakeLock:
    """Run the cells of a workspace with workers that write which GPUs they see.

    One kills itself as often as ``deaths`` names its cell.
    """
    (root / "worker.py").write_text(WORKER)
    monkeypatch.setattr(workers, "_COMMAND", [sys.executable, "worker.py", fails, *deaths])
    monkeypatch.setattr(coordinator, "mismatch", lambda root, name, stage: "not noted")
    monkeypatch.setattr(Coordinator, "_without_known", lambda self, tasks: list(tasks))
    monkeypatch.setattr(
        Coordinator, "_record", lambda self, tasks: lock.record([t.name for t in tasks])
    )
    lock = FakeLock(changed_of(root))
    run = Coordinator(root, Params.read(root / "params.yaml"), lock, threading.Event())  # type: ignore[arg-type]
    with workers.Workers(root, places) as pool:
        run.cells(pool)
    return lock


@pytest.mark.parametrize(
    ("inherited", "per_gpu", "processes", "seen"),
    [
        ("3,5", 1, 1, ["3", "5"]),
        ("3,5", 2, 1, ["3", "3", "5", "5"]),
        ("3,5,GPU-a,7", 1, 2, ["3,5", "GPU-a,7"]),
        ("3,5", 2, 2, ["3,5", "3,5"]),
    ],
)
def test_cells_that_run_side_by_side_see_the_gpus_of_their_slots(
    inherited: str,
    per_gpu: int,
    processes: int,
    seen: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Workspace(tmp_path, cells=len(seen))
    all_ = lambda: len(list(tmp_path.glob("*.begun"))) == len(seen)  # noqa: E731
    all_run = threading.Thread(target=lambda: (wait_until(all_), (tmp_path / "finish").touch()))
    all_run.start()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    places = workers.slots(None, workers.gpus("auto"), per_gpu, processes)
    assert len(run_fakes(tmp_path, monkeypatch, places).recorded) == len(seen)
    all_run.join()
    assert sorted(path.read_text().strip() for path in tmp_path.glob("*.begun")) == seen


def test_a_cell_whose_worker_is_killed_is_continued_by_another_on_the_same_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Workspace(tmp_path, cells=3)
    (tmp_path / "finish").touch()
    recorded = run_fakes(tmp_path, monkeypatch, ["5"], "seed-1").recorded
    assert set(recorded) == {"headline", "seed-1", "seed-2"}
    assert (tmp_path / "seed-1.begun").read_text() == "5\n5\n"
    line = (
        "seed-1: its process was ended by SIGKILL, perhaps for lack of memory; it is continued, "
        "attempt 2 of 3.\n"
    )
    assert capfd.readouterr().err.count(line) == 1


def test_a_cell_whose_workers_are_killed_again_and_again_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Workspace(tmp_path, cells=2)
    (tmp_path / "finish").touch()
    with pytest.raises(typer.Exit):
        run_fakes(tmp_path, monkeypatch, [None], *["seed-1"] * 9)
    said = capfd.readouterr().err
    assert said.count("it is continued") == 2
    assert (
        "error: seed-1: its process was ended by SIGKILL, perhaps for lack of memory\n"
        "  Its output is in .semimae/cells/seed-1/log.txt.\n"
    ) in said
    assert len((tmp_path / "seed-1.begun").read_text().split()) == 3


def test_where_a_cell_fails_what_has_not_begun_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace(tmp_path, cells=3)
    drop = workers.Workers.drop

    def drop_then_finish(pool: workers.Workers) -> None:
        drop(pool)
        (tmp_path / "finish").touch()

    monkeypatch.setattr(workers.Workers, "drop", drop_then_finish)
    with pytest.raises(typer.Exit):
        run_fakes(tmp_path, monkeypatch, [None], fails="headline")
    assert (tmp_path / "headline.begun").read_text().count("\n") == 1
    assert not (tmp_path / "seed-2.begun").exists()


@pytest.mark.parametrize(
    ("jobs", "devices", "per_gpu", "width", "expected"),
    [
        (None, "", 1, 1, [None, None]),
        (4, "", 1, 1, [None] * 4),
        (4, "", 1, 2, [None] * 2),  # processes of a cell share the cores too
        (None, "0 1", 1, 1, ["0", "1"]),
        (None, "0 1", 2, 1, ["0", "1", "0", "1"]),
        (3, "0 1", 1, 1, ["0", "1", "0"]),
        (None, "GPU-a GPU-b 2 3 4", 1, 2, ["GPU-a,GPU-b", "2,3"]),
    ],
)
def test_slots(
    jobs: int | None, devices: str, per_gpu: int, width: int, expected: list[str | None]
) -> None:
    assert workers.slots(jobs, devices.split(), per_gpu, width) == expected


def test_slots_are_wide_enough_for_the_cells_of_all_variants() -> None:
    two = {"two": {"train": {"processes": 2}}}
    params = changed_params(ablation__variant=["plain", "two"], ablation__changes=two)
    assert grid.widest(changed_params()) == 1
    assert grid.widest(params) == 2


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match=r"^train.processes=4 needs as many GPUs, .* are 2: 0,1;"):
        workers.slots(None, ["0", "1"], 1, 4)


@pytest.mark.parametrize(
    ("inherited", "asked", "expected"),
    [
        ("2,3", "auto", ["2", "3"]),
        ("2,3", "0, 1", ["0", "1"]),
        ("2,3", "none", []),
        ("", "auto", []),
        ("1,-1,2", "auto", ["1"]),  # CUDA ends the list there
    ],
)
def test_gpus_are_the_inherited_ones(
    inherited: str, asked: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert workers.gpus(asked) == expected


def test_stages_find_this_python_where_its_environment_is_not_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import pathlib, shutil, sys; pathlib.Path(sys.argv[1]).write_text(shutil.which('python'))"
    )
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(coordinator, "_DVC", [sys.executable, "-c", script])
    run = Coordinator(tmp_path, changed_params(), FakeLock(set()), threading.Event())  # type: ignore[arg-type]
    run.dvc("found")
    assert (tmp_path / "found").read_text() == str(Path(sys.executable).parent / "python")
