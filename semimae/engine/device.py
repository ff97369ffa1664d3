"""Where and in which precision a run computes."""

from collections.abc import Callable
from functools import partial

import torch

from semimae.engine.config import TrainConfig
from semimae.types import UserError


def setup_device(config: TrainConfig) -> torch.device:
    """Return the device of a run and fix the number of CPU threads.

    Raises:
        UserError: If the device that was asked for is not there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = config.device
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        allowed = ", ".join(["auto", *(device for device, is_there in there.items() if is_there)])
        raise UserError(f"train.device={name} is not available here; choose one of {allowed}.")
    return torch.device(name)


def make_autocast(config: TrainConfig, device: torch.device) -> Callable[[], torch.autocast]:
    """Return a maker of the autocast context of a run.

    ``auto`` takes bf16 on cuda only: for the small models that a CPU is used for, the casts cost
    more than they save (docs/performance.md).
    """
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=bf16)
