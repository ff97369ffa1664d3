"""What a worker notes of each stage of a cell that it has run, so that DVC can be told later.

A worker knows nothing of DVC. It notes the hashes of what a stage has read and written in
`.semimae/cells/NAME/STAGE.json`. The grid compares them with the files that are there before it
records the stage in dvc.lock.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.workspace import HEADLINE, INPUTS, PREDICTIONS, RECONSTRUCTIONS, RUNS, write_json
from semimae.files import file_hash
from semimae.options.cell import Cell
from semimae.options.grid import GridPoint

# An environment variable: the file in which a stage says how far it is.
STATUS = "SEMIMAE_STATUS"
FINISHED = "finished"  # the title in that file after the last stage, before the grid records it
_NOTES = Path(".semimae/cells")


class StageFiles(NamedTuple):
    """What a stage of a cell reads and writes, by paths that begin at the cell's folder."""

    code: str  # the file of `inputs` with its code and settings; {method} is the cell's method
    reads: tuple[str, ...]
    writes: tuple[str, ...]


_CELL = ("config.json", "split.json")
_TRAINED = (*_CELL, "train/model.safetensors")
STAGES = {  # in the order of dvc.yaml; a test compares both
    "split": StageFiles("split.json", (), _CELL),
    "train": StageFiles("train/{method}.json", _CELL, ("train",)),
    "linear_probe": StageFiles(
        "linear_probe.json", _TRAINED, ("linear_probe.json", PREDICTIONS, RECONSTRUCTIONS)
    ),
    "fine_tune": StageFiles("fine_tune.json", _TRAINED, ("fine_tune.json",)),
}


def stages_of(name: str) -> tuple[str, ...]:
    """Return the stages of a cell; only the headline is fine-tuned."""
    return tuple(STAGES) if name == HEADLINE else ("split", "train", "linear_probe")


def notes(root: Path, name: str) -> Path:
    """Return the folder with the notes on a cell."""
    return root / _NOTES / name


def cell_notes(root: Path) -> list[Path]:
    """Return the folders with the notes on all cells."""
    return sorted((root / _NOTES).glob("*/"))


def status_file(root: Path, name: str) -> Path:
    """Return the file that says how far a running cell is."""
    return notes(root, name) / "status.json"


def log_file(root: Path, name: str) -> Path:
    """Return the file that holds what the stages of a cell print."""
    return notes(root, name) / "log.txt"


def last_line(root: Path, name: str) -> str:
    """Return the last line of a cell's log."""
    return next(filter(str.strip, reversed(_logged(root, name))), "")


def warnings_in(root: Path, name: str) -> list[str]:
    """Return the warnings that stages of a cell have printed."""
    return [line for line in _logged(root, name) if line.startswith("warning: ")]


def _logged(root: Path, name: str) -> list[str]:
    try:
        return log_file(root, name).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def inputs_file(root: Path, name: str, stage: str) -> Path:
    """Return the file of `inputs` that a stage of a cell depends on."""
    pattern = STAGES[stage].code
    if "{method}" in pattern:
        method = Cell.read(root / RUNS / name / "config.json").method
        pattern = pattern.format(method=method)
    return root / INPUTS / pattern


def read_now(root: Path, name: str, stage: str) -> dict[str, str]:
    """Return the hashes of what a stage reads; a missing file has none."""
    folder = root / RUNS / name
    paths = [folder / file for file in STAGES[stage].reads]
    paths += [inputs_file(root, name, stage), root / "prepared" / "dataset.json"]
    if stage == "split":  # its command reads more of params.yaml than `inputs` covers
        paths.append(root / "params.yaml")
    return _hashes(root, paths)


def written_now(root: Path, name: str, stage: str) -> dict[str, str]:
    """Return the hashes of what a stage has written; a missing file has none."""
    found: list[Path] = []
    for file in STAGES[stage].writes:
        path = root / RUNS / name / file
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    return _hashes(root, found)


def note(root: Path, name: str, stage: str, read: dict[str, str], seconds: float) -> None:
    """Note that a stage has run."""
    written = written_now(root, name, stage)
    write_json(
        notes(root, name) / f"{stage}.json", {"read": read, "written": written, "seconds": seconds}
    )


def mismatch(root: Path, name: str, stage: str) -> str | None:
    """Return in one line how the files differ from the notes, or None if they do not."""
    noted = read_note(root, name, stage)
    if noted is None:
        return f"nothing is noted of stage {stage} of {name}"
    pairs = ((noted["read"], read_now(root, name, stage)), (noted["written"], None))
    for before, now in pairs:
        now = written_now(root, name, stage) if now is None else now
        if changed := sorted(p for p in before | now if before.get(p) != now.get(p)):
            return f"{changed[0]} has changed since {stage} of {name} ran"
    return None


def read_note(root: Path, name: str, stage: str) -> dict[str, Any] | None:
    """Return what is noted of a stage, if anything."""
    try:
        found: dict[str, Any] = json.loads((notes(root, name) / f"{stage}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def remove_written(root: Path, name: str, stage: str) -> None:
    """Remove what a stage writes before it runs, as DVC does, so that nothing stale is left."""
    for file in STAGES[stage].writes:
        path = root / RUNS / name / file
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def dvc_name(name: str, stage: str, baselines: tuple[str, ...] | list[str]) -> str:
    """Return the name in dvc.yaml of a stage of a cell.

    Args:
        name: The cell's folder below runs/.
        stage: A key of ``STAGES``.
        baselines: The variants in section ``ablation.baseline``.
    """
    if name == HEADLINE:
        return stage
    point = GridPoint.parse(name)
    is_baseline = point is not None and point.variant in baselines
    return f"{'baseline' if is_baseline else 'grid'}_{stage}@{name}"


def write_status(path: Path, **values: object) -> None:
    """Write how far a cell is. Readers see the old file or the new one, never a part of it.

    It is not forced to the disk, because it need not survive a power failure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values))
    os.replace(temporary, path)


def read_status(root: Path, name: str) -> dict[str, Any]:
    """Return how far a cell is; nothing if it has not begun."""
    try:
        found: dict[str, Any] = json.loads(status_file(root, name).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _hashes(root: Path, paths: list[Path]) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): file_hash(p) for p in paths if p.is_file()}
