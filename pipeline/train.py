"""Stage ``train``: train the cell of the current folder."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from pipeline.launch import launch, launched
from pipeline.machine import machine
from pipeline.progress import Describe, progress
from pipeline.source_code import short_hash, training_code
from pipeline.stage import (
    PARAMS_ABOVE,
    PREPARED_ABOVE,
    Inputs,
    ParamsFile,
    PreparedFolder,
    read_inputs,
)
from pipeline.tracking import LiveRun, provenance_of
from pipeline.workspace import (
    HELD_OUT,
    MACHINE,
    ORIGIN,
    PSEUDO_LABELS,
    dvc_root,
    phases_folder,
    resume_folder,
    stop_requests,
    write_arrays,
    write_json,
)
from semimae.options.cell import Cell
from semimae.options.method import SelfTrainingOptions
from semimae.types import UserError

Row = dict[str, float]
# Of a row, what differs from one attempt to the next; data_wait, a share, is not in all rows.
_CLOCK = ("time_ms", "seconds", "cpu_seconds", "data_wait")


def train(
    prepared_folder: PreparedFolder = PREPARED_ABOVE, params_file: ParamsFile = PARAMS_ABOVE
) -> None:
    """Train the cell of the current folder, or continue it.

    Writes the moving average of the weights and curves. If an earlier attempt was
    stopped, its newest checkpoint is where this one begins.

    Example: cd runs/headline && python -m pipeline train
    """
    folder, root = Path(), dvc_root()
    cell = Cell.read(folder / "config.json")
    if cell.train.processes > 1 and not launched():
        command = [sys.executable, "-m", "pipeline", "train"]
        command += ["--prepared", str(prepared_folder), "--params", str(params_file)]
        status = launch(command, cell.train.processes)
        if status:
            raise typer.Exit(status)
        return

    from semimae.distributed import connected, launched_world
    from semimae.files import held_lock, remove_folder

    found = read_inputs(folder, prepared_folder, params_file)
    code = short_hash(training_code([cell.options]))
    resume = resume_folder(root, folder, "train", code)
    here = launched_world()
    made_by = {}
    if here.rank == 0:
        made_by = {"code": code, **machine(cell, found.prepared.info.num_classes)}
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(stop_requests())
        if here.rank == 0:  # an orphan of a killed `dvc repro` may still be training it
            before = _version(folder / "train")
            lock = held_lock(Path(f"{resume}.lock"), stopped.is_set if here.size == 1 else _refuse)
            waited = stack.enter_context(lock)
            if waited and _version(folder / "train") not in (None, before):
                return  # by the other one, just now
        stack.enter_context(connected())
        _train(found, folder, root, resume, stopped.is_set, made_by)
        if here.rank == 0:
            remove_folder(resume)


def _train(
    found: Inputs,
    folder: Path,
    root: Path,
    resume: Path,
    should_stop: Callable[[], bool],
    made_by: dict[str, Any],
) -> None:
    from semimae.distributed import world
    from semimae.engine.fit import temperature_of
    from semimae.engine.folds import fit_run
    from semimae.files import replaced_folder
    from semimae.model_file import WEIGHTS, save_model

    cell, params, prepared, split = found
    first = world().rank == 0  # the others compute, and are silent
    steps = cell.train.steps
    with contextlib.ExitStack() as stack:
        if first:
            update = stack.enter_context(progress(cell.name, steps * cell.trainings))
            live = stack.enter_context(LiveRun(folder, root))
        describe = Describe(cell.images_per_step)

        def on_row(kind: str, row: Row) -> None:
            if first:
                live.add(row)
                on_fold(cell.trainings - 1, row)

        def on_fold(number: int, row: Row) -> None:
            if first:
                update(number * steps + int(row["step"]), describe(row))

        state, before, held_out = fit_run(
            cell,
            prepared,
            split,
            params.train,
            resume=resume,
            finished=lambda phase: phases_folder(root, short_hash(training_code([phase.options]))),
            on_row=on_row,
            on_fold=on_fold,
            should_stop=should_stop,
        )
        if not first:
            return
        with replaced_folder(folder / "train") as out:
            save_model(state.ema, cell, prepared.info, out / WEIGHTS, temperature_of(state))
            write_json(out / "history.json", _without_clock(state.history))
            write_json(out / "validation.json", _without_clock(state.validation))
            rows = state.history + state.validation
            clock = [{k: r[k] for k in ("step", *_CLOCK) if k in r} for r in rows]
            write_json(out / "timing.json", clock)
            write_json(out / "phases.json", before)
            if isinstance(cell.options, SelfTrainingOptions):
                arrays: dict[str, Any] = {"rows": split.unlabeled(prepared)}
                arrays |= {name: b.cpu().numpy() for name, b in state.method.named_buffers()}
                write_arrays(out / PSEUDO_LABELS, arrays)
            if held_out is not None:
                write_arrays(
                    out / HELD_OUT,
                    {"rows": held_out.rows, "probabilities": held_out.probabilities.numpy()},
                )
            write_json(out / ORIGIN, provenance_of(root))
            write_json(out / MACHINE, made_by)


def _version(folder: Path) -> tuple[int, int] | None:
    """Return what changes when a folder is replaced."""
    try:
        return folder.stat().st_ino, folder.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _refuse() -> bool:
    """Say that several processes do not wait: theirs would give up waiting for the first one."""
    raise UserError("another process trains this cell; run it again when that one has ended.")


def _without_clock(rows: list[Row]) -> list[Row]:
    """Drop wall time: what remains is the same for an interrupted and an uninterrupted run."""
    return [{k: v for k, v in row.items() if k not in _CLOCK} for row in rows]
