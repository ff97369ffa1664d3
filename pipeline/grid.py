"""``grid``: the whole pipeline, with several cells at a time."""

import contextlib
from typing import Annotated, Literal

import typer

from pipeline import workers
from pipeline.cluster import Cluster
from pipeline.coordinator import Coordinator
from pipeline.dvc_lock import DvcLock
from pipeline.sync import sync
from pipeline.workspace import dvc_root, stop_requests
from semimae.options.params import Params


def grid(
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Cells at the same time.", show_default="all GPUs, or 2 on a CPU"
        ),
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="auto: those of CUDA_VISIBLE_DEVICES, or all; none; or as in 0,1.")
    ] = "auto",
    per_gpu: Annotated[
        int, typer.Option(min=1, max=64, help="Cells that share a GPU, for small models.")
    ] = 1,
    on: Annotated[
        Literal["local", "slurm"], typer.Option(help="This machine, or a cluster's queue.")
    ] = "local",
    slurm: Annotated[
        list[str] | None, typer.Option(help="Of its jobs, repeatable: partition=gpu, time=240, ...")
    ] = None,
    cancel: Annotated[
        bool,
        typer.Option("--cancel", help="Ctrl-C ends the cluster's jobs; without it they go on."),
    ] = False,
) -> None:
    """Run what `dvc repro` would run, several cells at a time.

    Each cell has a GPU of its own where there are several, or `train.processes` of them.

    Cells that are the same run are trained once; the others take the result from DVC's cache.

    Example: python -m pipeline grid --jobs 2
    """
    root = dvc_root()
    params = Params.read(root / "params.yaml")
    width = widest(params)
    if on == "slurm":
        needed = 0 if params.train.device == "cpu" or gpus == "none" else width
        cluster = Cluster(root, jobs, slurm or [], gpus=needed, cancel=cancel)
        places: list[str | None] = [None]  # for the splits
    else:
        devices = [] if params.train.device == "cpu" else workers.gpus(gpus)
        places = workers.slots(jobs, devices, per_gpu, width)
    lock = DvcLock(root)
    changed = lock.changed()
    if not changed:
        typer.echo("Everything is up to date.")
        return
    # SIGTERM acts as Ctrl-C does: workers save before they end.
    with stop_requests() as stopped:
        run = Coordinator(root, params, lock, stopped)
        run.before_cells(changed)
        with workers.Workers(root, places) as pool:
            run.split(pool)
            if on == "local":
                run.cells(pool)
        if on == "slurm":
            run.cells(cluster)
        with contextlib.suppress(typer.Exit):  # a store that does not answer costs a warning
            sync(root)
        run.dvc("repro", "-q")
    typer.echo("The report is reports/index.html; `make ui` opens MLflow.")


def widest(params: Params) -> int:
    """Return the largest `train.processes` of all cells; a variant may have more of them."""
    return max(cell.train.processes for cell in (params.cell(), *params.grid()))
