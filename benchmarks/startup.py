"""How long commands take before they do their work."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from semimae.data.store import Prepared
from semimae.files import write_text
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.method import METHODS
from semimae.options.params import Params

ROOT = Path(__file__).parents[1]
GRID: dict[str, list[Any]] = {  # 150 cells
    "method": ["supervised", "fixmatch", "semi_mae"],
    "mask_ratio": [0.5, 0.6, 0.7, 0.8, 0.9],
    "label_fraction": [0.04, 0.1],
    "seed": [0, 1, 2, 3, 4],
}


def measure_startup(rounds: int, *, grid: bool) -> dict[str, dict[str, float]]:
    """Return wall and processor seconds of the help, of a first step and of a DVC run without work.

    Wall seconds hold what other programs took meanwhile; processor seconds add up all cores.
    """
    help_command = ["-m", "pipeline", "--help"]
    _run(help_command, ROOT)  # what is read from the disk is then in memory
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            "python -m pipeline --help": _median(rounds, lambda: _run(help_command, ROOT)),
            "python -m pipeline train, to its first row": _median(
                rounds, lambda: first_step(folder / "digits")
            ),
        }
        grids = {6: GRID | {"mask_ratio": [0.75], "seed": [0]}}
        if grid:
            grids[150] = GRID
        for cells, lists in grids.items():
            workspace = finished_grid(folder / str(cells), lists)
            found |= {
                f"dvc repro of {cells} cells, {name}": seconds
                for name, seconds in dvc_overhead(workspace, rounds).items()
            }
    return found


def first_step(folder: Path) -> dict[str, float]:
    """Train one step of the default recipe: until its row is there, and processor time in all."""
    params = Params.read(ROOT / "recipes" / "base" / "defaults.yaml")
    train = params.train.model_copy(update={"steps": 1, "log_every": 1, "eval_every": 1})
    optim = params.optim.model_copy(update={"warmup_steps": 0})
    params = params.model_copy(update={"train": train, "optim": optim})
    cell = params.cell()
    run = folder / "runs" / "headline"
    shutil.rmtree(folder, ignore_errors=True)
    run.mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    prepare(cell.dataset, params.data, folder, folder / "prepared")
    prepared = Prepared.read(folder / "prepared")
    split = make_split(
        prepared,
        seed=0,
        label_fraction=cell.label_fraction,
        val_fraction=cell.data.val_fraction,
        include_labeled=True,
    )
    write_text(folder / "params.yaml", params.model_dump_json())
    cell.write(run / "config.json")
    split.write(run / "split.json")
    began = time.time()
    used = _run(["-m", "pipeline", "train"], run)
    (row, *_) = json.loads((run / "train" / "timing.json").read_text())
    return {"wall": row["time_ms"] / 1000 - began, "processor": used["processor"]}


def dvc_overhead(workspace: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return what DVC takes to find nothing to do, and to run one short stage."""

    def repro(says: str, *arguments: str) -> dict[str, float]:
        return _run(["-m", "dvc", "repro", *arguments], workspace, says=says)

    return {
        "nothing to do": _median(rounds, lambda: repro("up to date")),
        "stage inputs alone": _median(rounds, lambda: repro("Running", "-f", "-s", "inputs")),
    }


def finished_grid(folder: Path, grid: dict[str, list[Any]]) -> Path:
    """Make a workspace in which all stages of a grid have run already; return it.

    They have not: the files that they leave are made up, and entered into dvc.lock at once.
    """
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("semimae", "pipeline", "lists", ".dvc"):
        ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["ablation"].update(grid)
    yaml.dump(params, folder / "params.yaml")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    _write_lock(folder)
    return folder


def _write_lock(folder: Path) -> None:
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    inside = {"prepared": ["dataset.json"], "plots": ["a.svg"]}
    inside["train"] = ["model.safetensors", "history.json", "validation.json"]
    inside["inputs/train"] = [f"{method}.json" for method in METHODS]
    with contextlib.chdir(folder), Repo() as repo, repo.lock:
        stages = repo.index.stages
        for path in (Path(out.fs_path) for stage in stages for out in stage.outs):
            inner = inside.get(f"{path.parent.name}/{path.name}", inside.get(path.name, []))
            for file in [path / name for name in inner] or [path]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("{}" if path.name == "summary.json" else f"{file}")
        lock = {}
        for stage in stages:
            stage.save()
            stage.commit()
            lock[stage.name] = to_single_stage_lockfile(stage)
    (folder / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))


def _run(arguments: list[str], folder: Path, says: str = "") -> dict[str, float]:
    """Run Python; return its wall and processor seconds."""
    variables = {**os.environ, "PYTHONPATH": str(folder if "dvc" in arguments else ROOT)}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        variables.pop(name, None)
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=variables,
        check=True,
        capture_output=True,
        text=True,
    )
    after = os.times()
    assert says in done.stdout, done.stdout
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return {"wall": time.perf_counter() - began, "processor": used}


def _median(rounds: int, call: Any) -> dict[str, float]:
    runs = [call() for _ in range(rounds)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}
