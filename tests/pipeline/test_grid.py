"""grid runs each distinct cell that has something to do, once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, REPO, changed_params, wait_until

import pipeline.grid

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
    monkeypatch.setattr(pipeline.grid, "changed_stages", lambda root: changed)
    params = changed_params(
        ablation__method=["supervised", "semi_mae"],
        ablation__mask_ratio=[0.5],
        ablation__label_fraction=[0.1],
        ablation__seed=[0, 1],
        ablation__variant=["plain", "heavy"],
        ablation__changes={"heavy": {"mim": {"lambda_mim": 10.0}}, "cnn": {"backbone": CNN}},
        ablation__baseline__variant=["cnn"],
    )
    assert pipeline.grid._pending_by_cell(tmp_path, params) == [
        ["train", "linear_probe", "fine_tune"],  # the headline, before its twin
        [f"grid_train@{plain}", f"grid_linear_probe@{plain}"],
        [f"grid_linear_probe@{probed}"],
        [f"baseline_train@{cnn}", f"baseline_linear_probe@{cnn}"],
    ]


STAGES = """
import pathlib, sys, time
if "-s" in sys.argv:
    try:
        pathlib.Path(sys.argv[-1] + ".begun").touch()
        time.sleep(100_000)
    except KeyboardInterrupt:
        pathlib.Path(sys.argv[-1] + ".saved").touch()
        sys.exit(1)
"""
GRID = """
import sys
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
import pipeline.grid as grid
grid._DVC = [sys.executable, "stages.py"]
grid._pending_by_cell = lambda root, params: [["one"], ["two"], ["three"]]
with grid.on_stop(grid.signal.default_int_handler):
    grid._run_grid(Path(), None, 2)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_stop_reaches_the_stages_and_waits_for_them(
    number: signal.Signals, tmp_path: Path
) -> None:
    """SIGTERM is sent to the one process alone, by a batch system or a container's stop."""
    (tmp_path / "stages.py").write_text(STAGES)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", GRID], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        begun = lambda: len(list(tmp_path.glob("*.begun"))) == 2  # noqa: E731
        wait_until(begun, lambda: process.poll() is None)
        process.send_signal(number)
        assert process.wait(PATIENCE) != 0
    assert {path.name for path in tmp_path.glob("*.saved")} == {"one.saved", "two.saved"}
    assert not (tmp_path / "three.begun").exists()


def test_stages_find_this_python_where_its_environment_is_not_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import pathlib, shutil, sys; pathlib.Path(sys.argv[1]).write_text(shutil.which('python'))"
    )
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(pipeline.grid, "_DVC", [sys.executable, "-c", script])
    pipeline.grid._run(["found"], tmp_path)
    assert (tmp_path / "found").read_text() == str(Path(sys.executable).parent / "python")
