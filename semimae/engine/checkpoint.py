"""Checkpoints from which a run continues bit for bit."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from semimae.distributed import any_process, from_first, world
from semimae.engine.bad_steps import BadSteps
from semimae.engine.meter import Meter
from semimae.engine.optim import load_state
from semimae.files import file_hash, replaced_file, write_text
from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.tensors import save_tensors
from semimae.types import UserError

Row = dict[str, float]
_UNSOUND = (  # a damaged file, in any way
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    SafetensorError,
)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, of each parameter


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
    bad_steps: BadSteps = field(default_factory=BadSteps)
    history: list[Row] = field(default_factory=list)  # training, one row per log_every steps
    validation: list[Row] = field(default_factory=list)  # one row per eval_every steps

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors under flat names."""
        flat = self._fixed()
        flat |= {f"meter.{k}": v for k, v in self.meter.sums.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
        return flat

    def _fixed(self) -> dict[str, Tensor]:
        """Return the tensors that are there from the start; those of meter and optimizer come."""
        flat = {"bad_steps": self.bad_steps.counts}
        for part in ("model", "ema", "method"):
            flat |= {f"{part}.{k}": v for k, v in getattr(self, part).state_dict().items()}
        return flat

    def load(self, flat: Mapping[str, Tensor]) -> None:
        """Take over the tensors that ``tensors`` returned, or none of them.

        Raises:
            ValueError: If they are those of another run.
        """
        self._check(flat)

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in flat.items() if k.startswith(f"{name}.")}

        for name in ("model", "ema", "method"):
            getattr(self, name).load_state_dict(part(name))
        device = self.bad_steps.counts.device
        self.bad_steps.counts = flat["bad_steps"].to(device)
        self.meter.sums = {k: v.to(device) for k, v in part("meter").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        load_state(self.optimizer, state)

    def _check(self, flat: Mapping[str, Tensor]) -> None:
        wanted = self._fixed()
        found = {k for k in flat if not k.startswith(("meter.", "optimizer."))}
        if wanted.keys() != found:
            names = sorted(wanted.keys() ^ found)
            raise ValueError(f"{len(names)} tensors are missing or unknown, first {names[0]}")
        shapes = {f"optimizer.{i}": p.shape for i, p in enumerate(_trained(self.optimizer))}
        for name, tensor in flat.items():
            if name in wanted:
                fits = (tensor.shape, tensor.dtype) == (wanted[name].shape, wanted[name].dtype)
            elif name.startswith("meter."):
                fits = tensor.ndim == 2 and len(tensor) == 2
            else:
                owner, _, kind = name.rpartition(".")
                wanted_shape = torch.Size() if kind == "step" else shapes.get(owner)
                fits = owner in shapes and kind in _MOMENTS and tensor.shape == wanted_shape
                fits = fits and all(f"{owner}.{other}" in flat for other in _MOMENTS)
            if not fits:
                raise ValueError(f"{name} is of another shape or type")


class Checkpoints:
    """A folder with the two newest checkpoints of one run.

    A checkpoint is a safetensors file and, written after it, a JSON file with the checksum of both:
    without a matching JSON file it does not count. Both appear by an atomic rename.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: Path | None = None  # that was saved or loaded, so it is sound

    def save(self, state: TrainState) -> None:
        """Write the state; keep the sound checkpoint before it, and no other one."""
        path = self._path(state.step)
        path.unlink(missing_ok=True)  # of an earlier attempt: it must not vouch for other tensors
        with replaced_file(path.with_suffix(".safetensors")) as temporary:
            save_tensors(state.tensors(), temporary)
            digest = file_hash(temporary)
        record = {
            "step": state.step,
            "seconds": state.seconds,
            "cpu_seconds": state.cpu_seconds,
            "history": state.history,
            "validation": state.validation,
        }
        content = {"sha256": _checksum(digest, record), "record": record}
        write_text(path, json.dumps(content))
        for old in self._newest_first():
            if old not in (path, self.last):
                old.unlink()
                old.with_suffix(".safetensors").unlink(missing_ok=True)
        self.last = path

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
                self.last = path
                return state.step
        return 0

    @staticmethod
    def _load(path: Path, state: TrainState) -> None:
        content = json.loads(path.read_text())
        record, data = content["record"], path.with_suffix(".safetensors")
        if content["sha256"] != _checksum(file_hash(data), record):
            raise ValueError("its checksum does not match")
        step, history = int(record["step"]), list(record["history"])
        seconds, cpu_seconds = float(record["seconds"]), float(record["cpu_seconds"])
        validation = list(record["validation"])
        state.load(load_file(data))  # nothing is taken over unless all is
        state.step, state.seconds, state.cpu_seconds = step, seconds, cpu_seconds
        state.history, state.validation = history, validation

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.json"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _checksum(digest: str, record: Mapping[str, object]) -> str:
    """Return the checksum of a record and of the tensors with the given digest."""
    return hashlib.sha256(f"{digest} {json.dumps(record)}".encode()).hexdigest()
