"""``doctor``: what a bug report needs to know, and what on this machine needs fixing."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import typer

from pipeline.workspace import dvc_root, git_commit
from semimae.options.params import Params
from semimae.types import UserError

_PACKAGES = ("torch", "torchvision", "timm", "dvc", "mlflow", "pydantic", "typer")
_LEAST_FREE = 5.0  # GB; a report, MLflow and the cache of a small grid take about one
_GB = 1e9


class Line(NamedTuple):
    """One fact, and what to do about it if something is wrong."""

    name: str
    fact: str
    remedy: str = ""


def doctor() -> None:
    """Print what a bug report needs, and say what needs fixing.

    That is versions, device, DVC, MLflow and disk. The exit code is 1 if something needs fixing.

    Example: python -m pipeline doctor
    """
    root = dvc_root()
    found: list[Line] = []
    for check in (_versions, _machine, _settings, _git_and_dvc, _mlflow, _disk):
        for line in _checked(check, root):
            typer.echo(f"{line.name + ':':<12} {line.fact}")
            found.append(line)
    remedies = [line for line in found if line.remedy]
    if not remedies:
        typer.echo("\nNothing needs fixing.")
        return
    typer.echo("\nTo fix:")
    for line in remedies:
        typer.echo(f"- {line.name}: {line.remedy}")
    raise typer.Exit(1)


def _checked(check: Callable[[Path], Iterator[Line]], root: Path) -> Iterator[Line]:
    """Run a check; one that fails is a finding, and the others still run."""
    name = check.__name__.strip("_")
    try:
        yield from check(root)
    except UserError as error:
        yield Line(name, "does not work", str(error))
    except Exception as error:
        yield Line(name, f"cannot be checked: {type(error).__name__}: {error}", "see above")


def _versions(root: Path) -> Iterator[Line]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Line("python", f"{platform.python_version()} on {system}")
    for name in _PACKAGES:
        try:
            yield Line(name, version(name))
        except PackageNotFoundError:
            yield Line(name, "missing", "run `make setup`")


def _machine(root: Path) -> Iterator[Line]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    yield Line("cores", f"{cores}, with {memory:.0f} GB of memory")
    if not torch.cuda.is_available():
        built = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "none"
        yield Line("GPUs", f"no usable one; {built}" if torch.version.cuda else built)
        if torch.version.cuda and Path("/dev/nvidiactl").exists():
            yield Line("driver", "torch cannot use the GPU", "compare the driver with torch's CUDA")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Line(f"GPU {index}", f"{name}, {free / _GB:.0f} of {total / _GB:.0f} GB free")


def _settings(root: Path) -> Iterator[Line]:
    """Say what ``auto`` means here for the settings in params.yaml."""
    from semimae.data.store import resolve_root
    from semimae.engine.device import device_name, is_bf16, set_up_device

    params = Params.read(root / "params.yaml")
    cell = params.cell()
    device, precision = set_up_device(cell.train), str(cell.train.precision)
    width = getattr(cell.backbone, "embed_dim", None)
    if precision == "auto" and isinstance(width, int):
        precision = f"{'bf16' if is_bf16(cell.train, device, width) else 'fp32'} (auto)"
    yield Line("training", f"on {device.type}, {device_name(device)}, in {precision}")
    yield Line("params", f"{cell.name} on {params.dataset}; {len(params.grid())} settings in all")
    if params.dataset in ("imagefolder", "csv"):
        images = resolve_root(params.data.root, root)
        remedy = "set SEMIMAE_DATA or data.root to the folder of your images"
        yield Line("images", str(images), "" if images.is_dir() else f"{remedy}; it is missing")


def _git_and_dvc(root: Path) -> Iterator[Line]:
    commit = git_commit(root)
    if commit is None:
        yield Line("git", "no commit", "run `git init` and commit, or DVC experiments cannot work")
    else:
        changed = len(_output(root, "git", "status", "--porcelain").splitlines())
        yield Line("git", f"{commit[:12]}, {changed} changed files")
    if not (root / ".dvc").is_dir():
        yield Line("DVC", "not set up in this folder", "run `dvc init`, or clone the project again")
        return
    yield Line("DVC cache", _output(root, sys.executable, "-m", "dvc", "cache", "dir").strip())
    remotes = _output(root, sys.executable, "-m", "dvc", "remote", "list").split()
    yield Line("DVC remote", remotes[0] if remotes else "none; results stay on this machine")


def _mlflow(root: Path) -> Iterator[Line]:
    from pipeline.tracking.address import address_of
    from pipeline.tracking.store import connect
    from pipeline.tracking.trouble import explain

    address = address_of(root)
    if address.database is not None and not address.database.exists():
        yield Line("MLflow", f"{address.shown}, which the first run will create")
        return
    try:
        store = connect(root)
    except Exception as error:
        yield Line("MLflow", f"{address.shown} does not work", explain(error))
        return
    yield Line("MLflow", f"{address.shown}, experiment {store.config.experiment!r}")


def _disk(root: Path) -> Iterator[Line]:
    free = shutil.disk_usage(root).free / _GB
    remedy = "free some space; `python -m pipeline prune` removes what no setting needs any more"
    yield Line("disk", f"{free:.0f} GB free here", "" if free >= _LEAST_FREE else remedy)


def _output(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UserError(f"`{' '.join(command[-3:])}` failed: {said}")
    return done.stdout
