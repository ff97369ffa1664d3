"""``make gpu-check``: whether a GPU computes what a CPU does. Every check is tried; all are told.

    python -m benchmarks.check [--device cuda] [--out FILE] [--rehearse]

``--rehearse`` runs the same program on a CPU, against itself; what only a GPU has is left out.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.loop import trained, with_steps
from benchmarks.measure import machine
from benchmarks.recorder import stand_in
from benchmarks.settings import CLASSES, SETTINGS, make_cell, make_data
from semimae.backbones.blocks import compiled_rows
from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.device import make_autocast, set_up_device, set_up_model
from semimae.engine.phases import phases
from semimae.methods.registry import build_method
from semimae.model import SemiModel, model_of
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.types import Interrupted, UserError

CPU = torch.device("cpu")
GRAY_LEVELS = 0.005  # share of pixels that may differ: two devices round a gray value differently
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # of a loss
GRADIENT = {"fp32": 1e-4, "bf16": 5e-2}  # of the whole gradient's length: bf16 has 8 bits
Figures = dict[str, Any]


class Wrong(Exception):
    """A figure is beyond its tolerance."""


class Skipped(Exception):
    """The check needs what is not here."""


class Bench(NamedTuple):
    """What the checks work with."""

    device: torch.device
    large: int  # unlabeled images of the large batch
    data: tuple[Prepared, Split]

    def cell(self, **changes: object) -> Cell:
        """Return a small cell on the device; all pseudo labels count."""
        some: dict[str, object] = {
            "pseudo_label__threshold": 0.0,
            "pseudo_label__threshold_start": 0.0,
            "pseudo_label__skip_rejected": "never",
        }
        return make_cell(SETTINGS["tiny"], self.device.type, "fp32", **(some | changes))


def within(name: str, value: float, most: float) -> Figures:
    """Return a figure for the report.

    Raises:
        Wrong: If it is beyond ``most``.
    """
    if not value <= most:
        raise Wrong(f"{name} is {value:.3g}, allowed: {most:g}")
    return {name: value}


def views_of(cell: Cell, data: tuple[Prepared, Split], device: torch.device) -> TrainViews:
    """Return the views of a cell's training."""
    patches = (cell.data.image_size // SETTINGS["tiny"].patch_size) ** 2
    return TrainViews(
        *data,
        cell.data,
        seed=0,
        batch_size=cell.train.batch_size,
        num_unlabeled=cell.num_unlabeled,
        num_patches=patches,
        num_steps=cell.train.steps,
        device=device,
        labeled=cell.labeled,
    )


def check_views(bench: Bench) -> Figures:
    """Views of eight steps, made at once on the device and one by one on a CPU."""
    found: Figures = {}
    for crop in ("pad", "resized"):
        changes: dict[str, object] = {"data__hflip": True, "data__color_jitter": 0.4}
        changes |= {"data__erasing": 0.5, "train__batch_size": 8, "train__mu": 4}
        cell = bench.cell(data__crop=crop, **changes)
        ours = views_of(cell, bench.data, bench.device).make(range(8))
        plain = views_of(cell, bench.data, CPU)
        different = total = 0
        for step, made in enumerate(ours):
            (wanted,) = plain.make(range(step, step + 1))
            for name, value in wanted.batch._asdict().items():
                if isinstance(value, Tensor):
                    unequal = getattr(made.batch, name).cpu() != value
                    different += int(unequal.sum())
                    total += unequal.numel()
        found |= within(f"share of different values, crop={crop}", different / total, GRAY_LEVELS)
    return found


def moved(value: Any, device: torch.device) -> Any:
    """Return a tree of tuples and mappings with all tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(part, device) for part in value))
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    return value


def losses_and_gradient(
    cell: Cell, model: SemiModel, teacher: SemiModel, inputs: Any, device: torch.device
) -> tuple[dict[str, float], Tensor]:
    """Return the terms of a step on a device and the gradient of their weighted sum."""
    device = set_up_device(cell.train) if device.type != "cpu" else device
    model, teacher = model.to(device), teacher.to(device)
    set_up_model(model, cell.train, device)
    method = build_method(cell.options, CLASSES, 96).to(device)
    autocast = make_autocast(cell.train, device, model.backbone.embed_dim)
    with autocast():
        losses = method.losses(model, teacher, moved(inputs, device))
    total = torch.stack([method.weights[k] * v.float() for k, v in losses.items()]).sum()
    trainable = [p for p in model.parameters() if p.requires_grad]
    parts = torch.autograd.grad(total, trainable, allow_unused=True)
    flat = torch.cat([p.flatten().double().cpu() for p in parts if p is not None])
    return {name: value.item() for name, value in losses.items()}, flat


def check_methods(bench: Bench) -> Figures:
    """Loss terms and gradient of one step of every method, from the same labels and weights."""
    found: Figures = {}
    for method in METHODS:
        plain = phases(bench.cell(method=method, train__device="cpu"))[-1]
        (step,) = views_of(plain, bench.data, CPU).make(range(1))
        model, teacher = (model_of(plain, bench.data[0]).train() for _ in range(2))
        inputs = build_method(plain.options, CLASSES, 96).label(model, teacher, step.batch)
        wanted, gradient = losses_and_gradient(plain, model, teacher, inputs, CPU)
        for precision in TOLERANCE:
            cell = phases(bench.cell(method=method, train__precision=precision))[-1]
            got, other = losses_and_gradient(cell, model, teacher, inputs, bench.device)
            worst = max(abs(got[k] - v) / max(abs(v), 1e-3) for k, v in wanted.items())
            error = float((other - gradient).norm() / gradient.norm())
            found |= within(f"{method}, {precision}: loss", worst, TOLERANCE[precision])
            found |= within(f"{method}, {precision}: gradient", error, GRADIENT[precision])
    return found


def curve(bench: Bench, cell: Cell, steps: int) -> list[float]:
    """Return the total loss of some training steps."""
    with tempfile.TemporaryDirectory() as folder:
        state = trained(with_steps(cell, steps), bench.data, Path(folder))
    return [row["loss/total"] for row in state.history]


def check_options(bench: Bench) -> Figures:
    """What changes the cost of a step and not its result, against the plain step."""
    plain = curve(bench, bench.cell(), 4)
    found: Figures = {}
    variants: dict[str, dict[str, object]] = {
        "compile": {"train__compile": True},
        "skip_rejected: always": {"pseudo_label__skip_rejected": "always"},
        "accumulate: 2": {"train__accumulate": 2},
        "recompute": {"train__recompute": True},
        "deterministic": {"train__deterministic": True},
    }
    for name, changes in variants.items():
        got = curve(bench, bench.cell(**changes), 4)
        error = max(abs(a - b) / abs(b) for a, b in zip(got, plain, strict=True))
        found |= within(name, error, 1e-3)  # over several steps, in which rounding grows
    return found


def check_graph(bench: Bench) -> Figures:
    """Steps that are replayed as a CUDA graph against plain ones; the first of them are plain."""
    found: Figures = {}
    variants: dict[str, dict[str, object]] = {
        "fixmatch": {},
        "flexmatch": {"pseudo_label__threshold_start": 0.1, "pseudo_label__threshold_ramp": 0.5},
        "ssmae": {},
        "semi_mae": {"mim__weighting": "gradient", "mim__weighting_every": 3},
        "freematch": {},
    }
    for method, changes in variants.items():
        plain = curve(bench, bench.cell(method=method, **changes), 8)
        compiled = {"train__compile": method == "freematch", "train__graph": True}
        got = curve(bench, bench.cell(method=method, **changes, **compiled), 8)
        error = max(abs(a - b) / abs(b) for a, b in zip(got, plain, strict=True))
        found |= within(f"{method}, {len(plain)} steps", error, 1e-3)
    return found


def check_waits(bench: Bench) -> Figures:
    """Steps in which the host must not wait for the device."""
    if bench.device.type != "cuda":
        raise Skipped("only CUDA can tell")
    found: Figures = {}
    variants: dict[str, dict[str, object]] = {
        **{name: {"method": name} for name in ("fixmatch", "flexmatch", "semi_mae")},
        "semi_mae, as a graph": {"method": "semi_mae", "train__graph": True},
    }
    for name, changes in variants.items():
        done = 0

        def note() -> bool:
            nonlocal done
            done += 1
            torch.cuda.set_sync_debug_mode("error" if 6 <= done < 12 else "default")
            return False

        cell = with_steps(bench.cell(**changes, data__crop="pad"), 14)
        try:
            with tempfile.TemporaryDirectory() as folder:
                trained(cell, bench.data, Path(folder), note, log_every=14)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[name] = "no wait in 6 steps"
    return found


def check_resume(bench: Bench) -> Figures:
    """A run that is stopped and continued, against one that is not."""
    found: Figures = {}
    for deterministic in (True, False):
        cell = with_steps(bench.cell(train__deterministic=deterministic), 6)
        weights = []
        with tempfile.TemporaryDirectory() as folder:
            for name, stop in (("whole", 0), ("parts", 3)):
                asked = iter(range(1, 7))
                try:
                    trained(cell, bench.data, Path(folder, name), lambda: next(asked) == stop)  # noqa: B023
                    assert not stop
                except Interrupted:
                    pass
                state = trained(cell, bench.data, Path(folder, name))
                weights.append([p.detach().cpu() for p in state.model.parameters()])
        error = max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))
        name = f"largest difference, deterministic: {str(deterministic).lower()}"
        found |= within(name, error, 0.0 if deterministic else 1e-2)
    return found


def check_large(bench: Bench) -> Figures:
    """A step with a large batch."""
    cell = bench.cell(train__batch_size=bench.large // 4, train__mu=4, train__precision="bf16")
    (total,) = curve(bench, cell, 1)
    return {"unlabeled images": cell.num_unlabeled, "loss": total}


CHECKS: dict[str, Callable[[Bench], Figures]] = {
    "views": check_views,
    "methods": check_methods,
    "waits": check_waits,
    "resume": check_resume,
    "large batch": check_large,
    "options": check_options,  # compiling takes long
    "graph": check_graph,  # last: a recording that fails may leave the GPU unusable
}


def main(arguments: list[str] | None = None) -> int:
    """Check and tell; return the number of checks that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small numbers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device("cpu" if options.rehearse else options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU here; --rehearse runs the same checks on the CPU.")
    # cuBLAS reads it once, when it starts: before the check that needs it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1 if options.rehearse else torch.get_num_threads())
    result: Figures = {"machine": machine(device), "checks": {}}
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        quick_compiler(options.rehearse),
        stand_in(options.rehearse),
    ):
        bench = Bench(
            device, 64 if options.rehearse else 8192, make_data(SETTINGS["tiny"], Path(folder))
        )
        for name, check in CHECKS.items():
            began, figures, outcome = time.perf_counter(), {}, "passed"
            try:
                figures = check(bench)
            except Skipped as reason:
                outcome = f"skipped: {reason}"
            except Exception as error:  # whatever it is, the other checks are worth their time
                outcome = f"failed: {type(error).__name__}: {error}"
                traceback.print_exc()
                failed += 1
            seconds = time.perf_counter() - began
            print(f"{name}: {outcome} ({seconds:.1f} s)", flush=True)
            result["checks"][name] = {"outcome": outcome, "seconds": seconds, "figures": figures}
            if options.out is not None:
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    return failed


@contextmanager
def quick_compiler(wanted: bool) -> Iterator[None]:
    """Let blocks be compiled without generating code, which takes long."""
    if not wanted:
        yield
        return
    whole, of_function = torch.nn.Module.compile, torch.compile
    torch.nn.Module.compile = partialmethod(whole, backend="aot_eager")  # type: ignore[assignment]
    torch.compile = partial(of_function, backend="aot_eager")
    compiled_rows.cache_clear()
    try:
        yield
    finally:
        torch.nn.Module.compile = whole  # type: ignore[method-assign]
        torch.compile = of_function
        compiled_rows.cache_clear()


if __name__ == "__main__":
    try:
        sys.exit(bool(main()))
    except UserError as error:
        sys.exit(f"gpu-check: {error}")
