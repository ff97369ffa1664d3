"""Stage ``train``: train the cell of the current folder."""

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.launch import launch, launched
from pipeline.progress import Describe, progress
from pipeline.tracking import LiveRun
from pipeline.workspace import code_hash, dvc_root, resume_folder, stop_requests, write_json
from semimae.cell import Cell

Row = dict[str, float]
PreparedFolder = Annotated[Path, typer.Option("--prepared", help="What stage `prepare` wrote.")]
_CLOCK = ("time_ms", "seconds", "data_wait")  # data_wait: share of the steps' time, not in all rows


def train(prepared_folder: PreparedFolder = Path("../../prepared")) -> None:
    """Train the cell of the current folder; write EMA weights, curves and reconstructions.

    Continues from the newest checkpoint if an earlier attempt was stopped.

    Example: cd runs/headline && python -m pipeline train
    """
    folder, root = Path(), dvc_root()
    cell = Cell.read(folder / "config.json")
    if cell.train.processes > 1 and not launched():
        status = launch([sys.executable, *sys.orig_argv[1:]], cell.train.processes)
        if status:
            raise typer.Exit(status)
        return

    import numpy as np
    from filelock import FileLock

    from semimae.data.files import replaced_folder
    from semimae.data.split import Split
    from semimae.data.store import Prepared, resolve_root
    from semimae.distributed import connected, launched_world
    from semimae.engine.fit import save_model
    from semimae.engine.phases import fit_phases
    from semimae.engine.reconstruct import reconstruct

    prepared = Prepared.read(prepared_folder, resolve_root(cell.data.root, root))
    split = Split.read(folder / "split.json", prepared)
    resume = resume_folder(root, folder, "train")
    first = launched_world().rank == 0  # the others compute, and are silent
    with contextlib.ExitStack() as stack:
        stopped = stack.enter_context(stop_requests())
        if first:  # an orphan of a killed `dvc repro` may still be training it
            stack.enter_context(FileLock(f"{resume}.lock"))
        stack.enter_context(connected())
        if first:
            update = stack.enter_context(progress(cell.name, cell.train.steps))
            live = stack.enter_context(LiveRun(folder, root))
        describe = Describe(cell.images_per_step)

        def on_row(kind: str, row: Row) -> None:
            if not first:
                return
            live.add(row)
            update(int(row["step"]), describe(row))

        state, earlier_phases = fit_phases(
            cell,
            prepared,
            split,
            resume=resume,
            finished=root / ".semimae" / "phases" / code_hash(),
            on_row=on_row,
            should_stop=stopped.is_set,
        )
        if not first:
            return
        with replaced_folder(folder / "train") as out:
            save_model(state.ema, cell, prepared.info, out / "model.safetensors")
            write_json(out / "history.json", _without_clock(state.history))
            write_json(out / "validation.json", _without_clock(state.validation))
            rows = state.history + state.validation
            clock = [{k: r[k] for k in ("step", *_CLOCK) if k in r} for r in rows]
            write_json(out / "timing.json", clock)
            write_json(out / "phases.json", earlier_phases)
            pictures = reconstruct(state.ema, cell, prepared, np.asarray(split.val[:8]))
            if pictures is not None:
                np.savez(out / "reconstructions.npz", **pictures._asdict())
    shutil.rmtree(resume, ignore_errors=True)


def _without_clock(rows: list[Row]) -> list[Row]:
    """Drop wall time: what remains is the same for an interrupted and an uninterrupted run."""
    return [{k: v for k, v in row.items() if k not in _CLOCK} for row in rows]
