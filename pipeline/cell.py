"""``cell``: all stages of cells, one after the other in one process that imports once."""

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

import typer

from pipeline.fine_tune import fine_tune
from pipeline.linear_probe import linear_probe
from pipeline.noted import (
    FINISHED,
    STAGES,
    STATUS,
    dvc_name,
    inputs_file,
    log_file,
    mismatch,
    note,
    read_now,
    remove_written,
    stages_of,
    status_file,
    write_status,
)
from pipeline.progress import QUIET
from pipeline.source_code import library_hashes
from pipeline.split import split
from pipeline.tracking import ALL, LATER
from pipeline.train import train
from pipeline.workspace import HEADLINE, RUNS, disk_trouble, dvc_root, python_path, read_json
from semimae.files import held_lock
from semimae.options.grid import GridPoint
from semimae.options.params import Params
from semimae.types import Interrupted, UserError

# In the environment: how many jobs share the machine's cores, where `train.threads` is 0.
JOBS = "SEMIMAE_JOBS"
# Of the stages that run in the cell's folder. Their heavy imports wait until they are called.
_COMMANDS = {"train": train, "linear_probe": linear_probe, "fine_tune": fine_tune}


class StageName(StrEnum):  # typer takes no lists of literals
    """The keys of ``STAGES``."""

    SPLIT = "split"
    TRAIN = "train"
    LINEAR_PROBE = "linear_probe"
    FINE_TUNE = "fine_tune"


def cell(
    names: Annotated[
        list[str], typer.Argument(help="Folders below runs/; -: orders of `grid`, from its pipe.")
    ],
    stage: Annotated[
        list[StageName] | None, typer.Option(help="Run these alone.", show_default="all")
    ] = None,
) -> None:
    """Run all stages of cells in one process.

    Writes the files that `dvc repro` writes. What it has noted as done is not
    repeated, and a stopped training is continued. Then `python -m pipeline grid` records
    all results in dvc.lock. DVC itself is not needed here.

    Example: python -m pipeline cell headline
    """
    # `grid` logs what is not logged here. SQLite's file is not for many machines; a server is.
    os.environ.setdefault(LATER, "1" if "MLFLOW_TRACKING_URI" in os.environ else ALL)
    worker = Worker(dvc_root())
    if names == ["-"]:
        _obey(worker, sys.stdin)
        return
    for name in names:
        worker.run(name, [s for s in stages_of(name) if s in (stage or STAGES)])


class Worker:
    """Runs stages of cells; remembers the source code that it began with, which is what it runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = library_hashes()
        self.threads: int | None = None
        # For `train.processes`, and to be what DVC tells the stages that it runs.
        os.environ.update(PYTHONPATH=python_path(root), DVC_ROOT=str(root))

    def run(self, name: str, stages: Sequence[str]) -> None:
        """Run stages of a cell, but for those that are noted as done.

        Raises:
            UserError: If there is no such cell, or the source code has changed since the start.
            Interrupted: If it was asked to stop, and has saved.
        """
        if name != HEADLINE and GridPoint.parse(name) is None:
            raise UserError(
                f"runs/{name} is not a cell; allowed: {HEADLINE}, or METHOD-RATIO-FRACTION-SEED-"
                "BUDGET-VARIANT as in semi_mae-0.75-0.1-0-images-plain."
            )
        status = status_file(self.root, name)
        status.parent.mkdir(parents=True, exist_ok=True)
        os.environ[STATUS] = str(status)
        # A worker whose grid was killed may still be at this cell.
        with held_lock(status.parent.with_name(f"{name}.lock"), should_stop=lambda: False):
            for stage in stages:
                if stage == "split" or mismatch(self.root, name, stage):
                    write_status(status, title=stage)
                    self._run_stage(name, stage)
        write_status(status, title=FINISHED, done=1, total=1, left=0.0)

    def _run_stage(self, name: str, stage: str) -> None:
        self._check_source(name, stage)
        baselines = Params.read(self.root / "params.yaml").ablation.baseline.variant
        os.environ["DVC_STAGE"] = dvc_name(name, stage, baselines)
        read = read_now(self.root, name, stage)
        if stage != "split":
            self._reset()
            remove_written(self.root, name, stage)
        began = time.monotonic()
        # As in a process of its own, a warning is given again.
        with warnings.catch_warnings(), contextlib.chdir(self._folder(name, stage)):
            if stage == "split":
                split(RUNS / name, *(GridPoint.parse(name) or ()))
            else:
                _COMMANDS[stage]()
        self._check_source(name, stage)
        note(self.root, name, stage, read, time.monotonic() - began)

    def _folder(self, name: str, stage: str) -> Path:
        return self.root if stage == "split" else self.root / RUNS / name

    def _check_source(self, name: str, stage: str) -> None:
        """Refuse to run a stage with other code than `inputs` states, or than lies there now."""
        stated = inputs_file(self.root, name, stage)
        if not stated.is_file():
            raise UserError(f"{stated.relative_to(self.root)} is missing: run `dvc repro inputs`.")
        now = library_hashes()
        for path, expected in read_json(stated)["code"].items():
            if not expected == self.source.get(path) == now.get(path):
                raise UserError(
                    f"{path} is not what {stated.relative_to(self.root)} states; it has changed "
                    "since: start the grid again."
                )

    def _reset(self) -> None:
        """Undo what another cell has set and held; share the cores where `train.threads` is 0."""
        import torch

        if self.threads is None:
            self.threads = max(1, torch.get_num_threads() // int(os.environ.get(JOBS, "1")))
        torch.set_num_threads(self.threads)
        gc.collect()
        torch.cuda.empty_cache()  # other workers of this GPU may need it; nothing without one
        # glibc keeps what was freed in pieces, so that a worker would grow from cell to cell.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _load() -> None:
    """Import what all stages import later."""
    import semimae.engine.folds
    import semimae.evaluation.probe
    import semimae.ingest.choose

    del semimae


def _obey(worker: Worker, orders: IO[str]) -> None:
    """Run one cell per line, {"name", "stages"}, and answer {"status", "line"} on each.

    What stages print goes to the cell's log file. The end of the input ends the process, also when
    whoever wrote the lines was killed.
    """
    os.environ[QUIET] = "1"
    _load()  # while `grid` asks DVC what there is to do
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in orders:
        order = json.loads(line)
        name, stages = order["name"], order["stages"]
        assert set(stages) <= set(STAGES), stages
        log = log_file(worker.root, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        status, said = 0, ""
        try:
            worker.run(name, stages)
        except (UserError, Interrupted) as reason:
            status, said = (2 if isinstance(reason, UserError) else 130), str(reason)
            print(f"error: {reason}" if status == 2 else reason, file=sys.stderr)
        except typer.Exit as end:  # processes of `train.processes`, which have said why
            status, said = end.exit_code, "one of its processes has failed; see its log"
        except Exception as error:
            status, said = 1, f"{type(error).__name__}: {error}"
            if isinstance(error, OSError) and (trouble := disk_trouble(error)):
                status, said = 2, trouble.removeprefix("error: ")
                print(trouble, file=sys.stderr)
            else:
                traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        print(json.dumps({"status": status, "line": said}), file=answers, flush=True)
