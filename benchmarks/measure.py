"""Clocks, memory and the machine's peak."""

import ctypes
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from semimae.engine.device import device_name

Call = Callable[[], object]


def clock(device: torch.device) -> float:
    """Return seconds: of the processor on a CPU, which other programs do not disturb; else wall."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleaved(calls: Mapping[str, Call], device: torch.device, rounds: int) -> dict[str, float]:
    """Return the median seconds of each call, timed in turns after one turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = clock(device)
            call()
            if turn:
                times[name].append(clock(device) - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_flops(device: torch.device, dtype: torch.dtype, quick: bool) -> float:
    """Return the floating-point operations per second of the machine's best matrix product.

    The matrices are random: a GPU needs less power for constant ones, and is faster with them.
    """
    sizes = (256,) if quick else (8192, 4096) if device.type == "cuda" else (2048, 1024)
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        seconds = interleaved({"product": lambda a=a, b=b: a @ b}, device, 5)  # type: ignore[misc]
        best = max(best, 2 * n**3 / max(seconds["product"], 1e-9))
    return best


def peak_memory(call: Call, device: torch.device) -> float | None:
    """Return how many MiB a call needs at most beyond what is there; None where unknown."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts as free
    reset.write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def machine(device: torch.device) -> dict[str, object]:
    """Return what the figures depend on: device, versions, commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "device": device_name(device),
        "kind": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "wall" if device.type == "cuda" else "processor time",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or None,
    }
