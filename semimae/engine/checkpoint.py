"""Checkpoints from which a run continues bit for bit."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from semimae.distributed import any_process, from_first, world
from semimae.engine.meter import Meter
from semimae.engine.optim import packed_groups
from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.types import UserError

Row = dict[str, float]
_UNSOUND = (OSError, ValueError, KeyError, TypeError, RuntimeError)  # a damaged file, in any way


@dataclass
class TrainState:
    """Everything that changes while a run trains."""

    model: SemiModel
    ema: SemiModel
    method: Method
    optimizer: torch.optim.Optimizer
    meter: Meter = field(default_factory=Meter)
    step: int = 0  # steps done
    seconds: float = 0.0  # spent on them, over all attempts
    cpu_seconds: float = 0.0  # the same, of this process's processor time
    bad_steps: Tensor = field(default_factory=lambda: torch.zeros(3))  # in a row, longest row, all
    history: list[Row] = field(default_factory=list)  # training, one row per log_every steps
    validation: list[Row] = field(default_factory=list)  # one row per eval_every steps

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors under flat names."""
        flat = {"bad_steps": self.bad_steps}
        for part in ("model", "ema", "method"):
            flat |= {f"{part}.{k}": v for k, v in getattr(self, part).state_dict().items()}
        flat |= {f"meter.{k}": v for k, v in self.meter.sums.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
        return flat

    def load(self, flat: Mapping[str, Tensor]) -> None:
        """Take over the tensors that ``tensors`` returned."""

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in flat.items() if k.startswith(f"{name}.")}

        for name in ("model", "ema", "method"):
            getattr(self, name).load_state_dict(part(name))
        device = self.bad_steps.device
        self.bad_steps = flat["bad_steps"].to(device)
        self.meter.sums = {k: v.to(device) for k, v in part("meter").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = packed_groups(self.optimizer)
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class Checkpoints:
    """A folder with the two newest checkpoints of one run.

    A checkpoint is a safetensors file and, written after it, a JSON file with the checksum of both:
    without a matching JSON file it does not count. Both appear by an atomic rename.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: TrainState) -> None:
        """Write the state and drop all but the two newest checkpoints."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self._path(state.step).with_suffix("")
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors().items()}
        save_file(tensors, f"{stem}.tmp")
        digest = _sync_and_hash(Path(f"{stem}.tmp"))
        os.replace(f"{stem}.tmp", f"{stem}.safetensors")
        record = {
            "step": state.step,
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
            "history": state.history,
            "validation": state.validation,
        }
        content = {"sha256": _checksum(digest, record), "record": record}
        Path(f"{stem}.tmp").write_text(json.dumps(content))
        _sync_and_hash(Path(f"{stem}.tmp"))
        os.replace(f"{stem}.tmp", f"{stem}.json")
        for old in self._newest_first()[2:]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self, state: TrainState) -> bool:
        """Fill the state from the newest sound checkpoint; tell whether there was one.

        A damaged one is passed over with a warning. Of several processes the first one chooses.

        Raises:
            UserError: If another process cannot load what the first one chose.
        """
        chosen = from_first(self._load_newest(state) if world().rank == 0 else 0)
        if not chosen:
            return False
        problem = ""
        if world().rank:
            try:
                self._load(self._path(chosen), state)
            except _UNSOUND as error:
                problem = f" ({error})"
        if any_process(bool(problem)):
            raise UserError(
                f"{self._path(chosen)} cannot be loaded by all processes{problem}; put the project "
                "on a disk that all machines share."
            )
        return True

    def _load_newest(self, state: TrainState) -> int:
        """Return the step that was loaded, 0 if there was none."""
        for path in self._newest_first():
            try:
                self._load(path, state)
            except _UNSOUND as error:
                warnings.warn(f"checkpoint {path} is passed over: {error}", stacklevel=2)
            else:
                return state.step
        return 0

    @staticmethod
    def _load(path: Path, state: TrainState) -> None:
        content = json.loads(path.read_text())
        record, data = content["record"], path.with_suffix(".safetensors")
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
        if content["sha256"] != _checksum(digest, record):
            raise ValueError("its checksum does not match")
        state.load(load_file(data))
        state.step, state.seconds = record["step"], record["seconds"]
        state.cpu_seconds = record["cpu_seconds"]
        state.history, state.validation = record["history"], record["validation"]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.json"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)


def _checksum(digest: str, record: Mapping[str, object]) -> str:
    """Return the checksum of a record and of the tensors with the given digest."""
    return hashlib.sha256(f"{digest} {json.dumps(record)}".encode()).hexdigest()


def _sync_and_hash(path: Path) -> str:
    """Force a file to the disk, so that the rename cannot be older than its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
