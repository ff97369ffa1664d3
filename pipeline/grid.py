"""``grid``: the whole pipeline, with several cells at a time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from pipeline.progress import QUIET, progress
from pipeline.sync import sync
from pipeline.tracking import LATER
from pipeline.workspace import HEADLINE, dvc_root, on_stop, run_folders
from semimae.options.cell import cell_id
from semimae.options.grid import GridPoint
from semimae.options.params import Params

# `dvc repro` runs one stage after the other. Single stages may run side by side if they wait for
# each other's turn at DVC's lock; without the flag some fail after they have trained.
_DVC = [sys.executable, "-m", "dvc", "--wait-for-lock"]
_STEPS = ("train", "linear_probe", "fine_tune")
_CHILDREN: set[subprocess.Popen[bytes]] = set()


def grid(
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Cells at the same time.")] = 2,
) -> None:
    """Run what `dvc repro` would run, several cells at a time.

    Cells that are the same run are trained once; the others take the result from DVC's cache.

    Example: python -m pipeline grid --jobs 2
    """
    root = dvc_root()
    params = Params.read(root / "params.yaml")
    if not changed_stages(root):
        typer.echo("Everything is up to date.")
        return
    # SIGTERM acts as Ctrl-C does, and both are passed on, so that stages save before they end. A
    # job in the background of a script begins with SIGINT ignored, and its children would too.
    with on_stop(signal.default_int_handler):
        _run_grid(root, params, jobs)
    typer.echo("The report is reports/index.html; `make ui` opens MLflow.")


def _run_grid(root: Path, params: Params, jobs: int) -> None:
    _run(["repro", "-q", "split", "grid_split", "baseline_split"], root)
    groups = _pending_by_cell(root, params)
    typer.echo(f"Settings to train or score: {len(groups)}, {jobs} at a time.")
    with progress("cells", len(groups)) as update, ThreadPoolExecutor(jobs) as pool:
        # The bars of cells that run side by side would overwrite each other.
        variables = {QUIET: "1", LATER: "1"} if jobs > 1 else {LATER: "1"}
        failed = threading.Event()

        def run(stages: list[str]) -> None:
            if failed.is_set():  # what has not begun is not begun
                return
            try:
                _run(["repro", "-q", "-s", *stages], root, variables)
            except BaseException:
                failed.set()
                raise

        futures = [pool.submit(run, group) for group in groups]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                update(done)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                _interrupt(*_CHILDREN)
            raise
    with contextlib.suppress(typer.Exit):  # a store that does not answer costs a warning
        sync(root)
    _run(["repro", "-q"], root)


def _pending_by_cell(root: Path, params: Params) -> list[list[str]]:
    """Return the stages to run of each distinct cell, headline first, then as in the grid.

    Folders that nothing asks for any more, or that are no cells, have no such stages.
    """
    changed = changed_stages(root)
    groups: dict[str, list[str]] = {}
    for folder in run_folders(root, params):
        names = [_stage(folder.name, step, params) for step in _STEPS]
        if stages := [name for name in names if name in changed]:
            groups.setdefault(cell_id(folder), stages)
    return list(groups.values())


def _stage(folder: str, step: str, params: Params) -> str:
    if folder == HEADLINE:
        return step
    point = GridPoint.parse(folder)
    is_baseline = point is not None and point.variant in params.ablation.baseline.variant
    return f"{'baseline' if is_baseline else 'grid'}_{step}@{folder}"


def changed_stages(root: Path) -> set[str]:
    """Return the names of the stages that `dvc repro` would run."""
    done = subprocess.run(
        [*_DVC, "status", "--json"], cwd=root, check=False, capture_output=True, text=True
    )
    if done.returncode:  # such as: another dvc is at work here
        typer.echo(done.stderr, err=True, nl=False)
        raise typer.Exit(1)
    return set(json.loads(done.stdout))


def _run(
    arguments: list[str], root: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> None:
    # In a group of its own, which a signal reaches as a whole: DVC, the stage and its processes.
    # The stages call `python`: this one, also where its environment is not activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen(
        [*_DVC, *arguments],
        cwd=root,
        env={**os.environ, "PATH": path, **environment},
        process_group=0,
    )
    _CHILDREN.add(process)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _interrupt(process)
        process.wait()
        raise
    finally:
        _CHILDREN.discard(process)
    if status:
        raise typer.Exit(1)


def _interrupt(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
