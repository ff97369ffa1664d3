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

import semimae
from semimae.cell import cell_id
from semimae.data.files import write_text
from semimae.grid import GridPoint
from semimae.params import Params
from semimae.types import UserError

PREPARED = Path("prepared")
INPUTS = Path("inputs")
RUNS = Path("runs")
HEADLINE = "headline"
_RESUME, _PHASES = Path(".semimae/resume"), Path(".semimae/phases")
ORIGIN, MACHINE = "origin.json", "machine.json"  # in the folder of stage `train`


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


def code_hash() -> str:
    """Return a hash of the library's code: what was begun by other code is not continued."""
    code = hashlib.sha256()
    package = Path(semimae.__file__).parent
    for path in sorted(package.rglob("*.py")):
        code.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return code.hexdigest()[:8]


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


def resume_folder(root: Path, folder: Path, stage: str, options: str = "") -> Path:
    """Return where a stage of a cell keeps its checkpoints: DVC deletes its outputs on a rerun.

    The name is the cell's identity and a hash of the code and of the stage's own options.
    """
    resume = root / _RESUME
    resume.mkdir(parents=True, exist_ok=True)
    chosen = hashlib.sha256(options.encode()).hexdigest()[:4] if options else ""
    return resume / f"{cell_id(folder)}-{stage}{chosen}-{code_hash()}"


def phases_folder(root: Path) -> Path:
    """Return where this code keeps finished phases, for all cells."""
    return root / _PHASES / code_hash()


def stale_checkpoints(root: Path, identities: Collection[str]) -> list[Path]:
    """Return what neither this code nor the cells of these identities continue from."""
    own = code_hash()

    def is_wanted(folder: Path) -> bool:
        return folder.name.partition("-")[0] in identities and folder.name.endswith(f"-{own}")

    resume = [path for path in sorted((root / _RESUME).glob("*/")) if not is_wanted(path)]
    return resume + [path for path in sorted((root / _PHASES).glob("*/")) if path.name != own]


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
