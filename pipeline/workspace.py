"""Paths of the workspace that a stage runs in, and of the repository that it belongs to."""

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from semimae.files import replaced_file, write_text
from semimae.options.cell import cell_id
from semimae.options.grid import GridPoint
from semimae.options.params import Params
from semimae.types import UserError

PREPARED = Path("prepared")
INPUTS = Path("inputs")
RUNS = Path("runs")
HEADLINE = "headline"
# Errors of a disk that is full, over quota, read-only, defective, or not ours to write to.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
_RESUME, _PHASES = Path(".semimae/resume"), Path(".semimae/phases")
ORIGIN, MACHINE = "origin.json", "machine.json"  # in the folder of stage `train`
HELD_OUT = "held_out.npz"  # there too, if parts of the labels were held out in turn
# Written by stage `linear_probe` to the cell's folder:
RECONSTRUCTIONS = "reconstructions.npz"
PSEUDO_LABELS = "pseudo_labels.npz"  # of self-training: of each unlabeled image
PREDICTIONS = "predictions.npz"  # of each validation and test image


def dvc_root() -> Path:
    """Return the repository's root, even inside the temporary workspace of a queued experiment.

    DVC sets DVC_ROOT for every stage. Outside of DVC, it is the nearest folder with a dvc.yaml.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"there is no dvc.yaml in {here} or above; run this inside the project.")


def python_path(root: Path) -> str:
    """Return the value of PYTHONPATH with which a process in any folder finds this code."""
    return os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))


def disk_trouble(error: OSError) -> str | None:
    """Return the message for an error of the disk, or None if it is another error."""
    if error.errno not in _DISK:
        return None
    return (
        f"error: {error.strerror}: {error.filename or 'while writing'}; what was saved before is "
        "kept. Fix the problem, then run the same command again."
    )


def git_commit(root: Path) -> str | None:
    """Return the checked-out commit, or None outside of git and before the first commit."""
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to an .npz file atomically."""
    import numpy as np

    with replaced_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections under their full keys, such as ``train.steps``."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def digest(path: Path) -> str:
    """Hash a file, or a run's training curves, which are equal whenever the weights are."""
    files = [path] if path.is_file() else [path / "history.json", path / "validation.json"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def mlflow_record(root: Path, identity: str) -> Path:
    """Return the file that records a cell's MLflow run, for when no server answers."""
    return root / ".semimae" / "mlflow" / f"{identity}.json"


def grid_folders(root: Path) -> dict[GridPoint, Path]:
    """Return the folders in runs/ that are named after a point of a grid, current or not."""
    named = {path: GridPoint.parse(path.name) for path in sorted((root / RUNS).glob("*/"))}
    return {point: path for path, point in named.items() if point is not None}


def run_folders(root: Path, params: Params) -> list[Path]:
    """Return the folders in runs/: the headline's, the grid's in order, then the rest.

    If several folders hold the same cell, the first one represents it.
    """
    there = grid_folders(root)
    points = [point for asked in params.grid().values() for point in asked]
    first = [root / RUNS / HEADLINE, *(there[point] for point in points if point in there)]
    found = dict.fromkeys([*first, *sorted((root / RUNS).glob("*/"))])
    return [path for path in found if path.is_dir()]


def report_record(root: Path, reports: Path) -> Path:
    """Return the file that records the origin of a report."""
    return root / ".semimae" / "reports" / f"{digest(reports / 'summary.json')}.json"


def resume_folder(root: Path, folder: Path, stage: str, code: str, options: str = "") -> Path:
    """Return the checkpoint folder of a cell's stage. DVC would delete one among the outputs.

    Args:
        root: The repository.
        folder: The cell's folder.
        stage: The name of the stage's command.
        code: A hash of the code that affects the result. Other code does not resume from there.
        options: The stage's own settings.
    """
    resume = root / _RESUME
    resume.mkdir(parents=True, exist_ok=True)
    chosen = hashlib.sha256(options.encode()).hexdigest()[:4] if options else ""
    return resume / f"{cell_id(folder)}-{stage}{chosen}-{code}"


def phases_folder(root: Path, code: str) -> Path:
    """Return where the finished phases that this code has trained are kept, for all cells."""
    return root / _PHASES / code


def stale_checkpoints(
    root: Path, wanted: Collection[tuple[str, str]], code: set[str]
) -> list[Path]:
    """Return the checkpoint folders that no run can continue from.

    Args:
        root: The repository.
        wanted: Cell identities, each with a hash of the code that trains or fine-tunes the cell.
        code: Hashes of the code of finished phases.
    """
    resume = [
        path
        for path in sorted((root / _RESUME).glob("*/"))
        if (path.name.partition("-")[0], path.name.rpartition("-")[2]) not in wanted
    ]
    return resume + [path for path in sorted((root / _PHASES).glob("*/")) if path.name not in code]


@contextlib.contextmanager
def on_stop(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let a function handle SIGTERM and Ctrl-C."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, earlier in zip(signals, before, strict=True):
            signal.signal(number, earlier)


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and Ctrl-C set. It lets a stage save before it ends."""
    stopped = threading.Event()
    with on_stop(lambda *_: stopped.set()):
        yield stopped
