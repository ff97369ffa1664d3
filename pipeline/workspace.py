"""Where things are: the workspace that a stage runs in, and the repository that it belongs to."""

import contextlib
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

from semimae.files import write_text
from semimae.options.cell import cell_id
from semimae.options.grid import GridPoint
from semimae.options.params import Params
from semimae.types import UserError

PREPARED = Path("prepared")
INPUTS = Path("inputs")
RUNS = Path("runs")
HEADLINE = "headline"
_RESUME, _PHASES = Path(".semimae/resume"), Path(".semimae/phases")
ORIGIN, MACHINE = "origin.json", "machine.json"  # in the folder of stage `train`
# In the cell's folder, of stage `linear_probe`:
RECONSTRUCTIONS = "reconstructions.npz"
PSEUDO_LABELS = "pseudo_labels.npz"  # of self-training: of each unlabeled image
PREDICTIONS = "predictions.npz"  # of each validation and test image


def dvc_root() -> Path:
    """Return the repository's root, also inside a queued experiment's temporary workspace.

    DVC sets DVC_ROOT for every stage; by hand the nearest folder with a dvc.yaml counts.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise UserError(f"no dvc.yaml in {here} or above; run this inside the project.")


def git_commit(root: Path) -> str | None:
    """Return the commit that is checked out, if this is a git repository with one."""
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that ``write_json`` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections under their keys in full, such as ``train.steps``."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def digest(path: Path) -> str:
    """Hash a file, or a training's curves, which are the same whenever the weights are."""
    files = [path] if path.is_file() else [path / "history.json", path / "validation.json"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def mlflow_record(root: Path, identity: str) -> Path:
    """Return the file that remembers which MLflow run holds a cell, for when no server answers."""
    return root / ".semimae" / "mlflow" / f"{identity}.json"


def grid_folders(root: Path) -> dict[GridPoint, Path]:
    """Return the folders below runs/ that are named as points of a grid, of any grid."""
    named = {path: GridPoint.parse(path.name) for path in sorted((root / RUNS).glob("*/"))}
    return {point: path for path, point in named.items() if point is not None}


def run_folders(root: Path, params: Params) -> list[Path]:
    """Return the folders below runs/: the headline's, the grid's in its order, then the rest.

    Of folders that hold the same cell, the first is the one to speak of.
    """
    there = grid_folders(root)
    points = [point for asked in params.grid().values() for point in asked]
    first = [root / RUNS / HEADLINE, *(there[point] for point in points if point in there)]
    found = dict.fromkeys([*first, *sorted((root / RUNS).glob("*/"))])
    return [path for path in found if path.is_dir()]


def report_record(root: Path, reports: Path) -> Path:
    """Return where it is noted from where a report comes."""
    return root / ".semimae" / "reports" / f"{digest(reports / 'summary.json')}.json"


def resume_folder(root: Path, folder: Path, stage: str, code: str, options: str = "") -> Path:
    """Return where a stage of a cell keeps its checkpoints: DVC deletes its outputs on a rerun.

    Args:
        root: The repository.
        folder: The cell's.
        stage: The name of its command.
        code: A hash of the code that decides the outcome: what other code began is not continued.
        options: The stage's own settings.
    """
    resume = root / _RESUME
    resume.mkdir(parents=True, exist_ok=True)
    chosen = hashlib.sha256(options.encode()).hexdigest()[:4] if options else ""
    return resume / f"{cell_id(folder)}-{stage}{chosen}-{code}"


def phases_folder(root: Path, code: str) -> Path:
    """Return where finished phases are kept, for all cells, that this code has trained."""
    return root / _PHASES / code


def stale_checkpoints(
    root: Path, wanted: Collection[tuple[str, str]], code: set[str]
) -> list[Path]:
    """Return what is continued by nothing any more.

    Args:
        root: The repository.
        wanted: Identities of cells, each with a hash of code that it is trained or tuned by.
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
    """Yield an event that SIGTERM and Ctrl-C set, so that a stage can save before it ends."""
    stopped = threading.Event()
    with on_stop(lambda *_: stopped.set()):
        yield stopped
