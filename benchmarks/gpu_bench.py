"""Speed of training on a GPU, in the loop as it runs, for three models.

python -m benchmarks.gpu_bench --out FILE [--limit SECONDS] [--rehearse]
"""

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.check import quick_compiler
from benchmarks.loop import measure_loop
from benchmarks.measure import machine, peak_flops
from benchmarks.recorder import stand_in
from benchmarks.settings import CLASSES, SETTINGS, make_cell, make_data
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.evaluation.flops import step_flops
from semimae.types import UserError


class Variant(NamedTuple):
    """A way to train the same model."""

    name: str
    changes: dict[str, object]


EAGER = Variant("eager", {})
COMPILED = Variant("compiled", {"train__compile": True})
GRAPH = Variant("graph", {"train__graph": True})
BOTH = Variant("compiled, graph", {"train__compile": True, "train__graph": True})
FIXMATCH = Variant("FixMatch, eager", {"method": "fixmatch"})
# The most valuable first: a limit of time cuts what follows.
ORDER = [
    *((name, EAGER) for name in ("ViT-Ti/4@32", "ViT-S/16@224", "ViT-B/16@224")),
    ("ViT-Ti/4@32", GRAPH),
    *((name, FIXMATCH) for name in ("ViT-Ti/4@32", "ViT-S/16@224", "ViT-B/16@224")),
    *((name, COMPILED) for name in ("ViT-Ti/4@32", "ViT-B/16@224", "ViT-S/16@224")),
    ("ViT-Ti/4@32", BOTH),
    *((name, GRAPH) for name in ("ViT-S/16@224", "ViT-B/16@224")),
]


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the figures after each variant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds; then none is begun")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, a tiny model")
    options = parser.parse_args(arguments)
    if not (options.rehearse or torch.cuda.is_available()):
        raise SystemExit("there is no GPU here; --rehearse runs the same program on the CPU.")
    began = time.perf_counter()
    device = torch.device("cpu" if options.rehearse else "cuda")
    order = [("tiny", v) for v in (EAGER, GRAPH, FIXMATCH, COMPILED)] if options.rehearse else ORDER
    rounds, steps = (2, 2) if options.rehearse else (3, 20)
    precision = "fp32" if options.rehearse else "bf16"
    if options.rehearse:
        torch.set_num_threads(1)
    peak = peak_flops(
        device, torch.float32 if options.rehearse else torch.bfloat16, options.rehearse
    )
    result: dict[str, Any] = {
        "machine": machine(device) | {"clock": "wall" if not options.rehearse else "processor"},
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": precision,
        "peak": peak,
        "rounds": rounds,
        "settings": {},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        quick_compiler(options.rehearse),
        stand_in(options.rehearse),
    ):
        made: dict[str, tuple[Prepared, Split]] = {}
        for name, variant in order:
            if time.perf_counter() - began > options.limit:
                print(f"{name}, {variant.name}: left out, {options.limit:.0f} s are over")
                continue
            setting = SETTINGS[name]
            if name not in made:
                where = Path(folder) / f"data{len(made)}"
                made[name] = make_data(setting, where)
            cell = make_cell(setting, device.type, precision, **variant.changes)
            flops = step_flops(cell, CLASSES)
            try:
                torch._dynamo.reset()
                figures = measure_loop(cell, made[name], device, rounds=rounds, steps=steps)
                figures |= {"flops": flops, "share_of_peak": flops / figures["seconds"] / peak}
                print(
                    f"{name}, {variant.name}: {figures['unlabeled_per_second']:,.0f} unlabeled "
                    f"images/s, {figures['share_of_peak']:.1%} of the peak",
                    flush=True,
                )
            except (RuntimeError, UserError) as error:  # the others are worth their time
                figures = {"failed": f"{type(error).__name__}: {error}"}
                print(f"{name}, {variant.name}: {figures['failed']}", flush=True)
            result["settings"].setdefault(name, {})[variant.name] = figures
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(result))


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    m = result["machine"]
    lines = [
        f"{m['device']}, torch {m['torch']}, commit {m['commit']}, {result['precision']}; peak of "
        f"a product of random matrices {result['peak'] / 1e12:.3g} TFLOP/s; medians of "
        f"{result['rounds']} windows of the training loop.",
        "",
        "| model | step | unlabeled images/s | of peak | data wait | GPU busy | launches | MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, variants in result["settings"].items():
        for variant, f in variants.items():
            if "failed" in f:
                lines.append(f"| {name} | {variant} | {f['failed']} | | | | | |")
                continue
            busy, memory = f["profile"]["busy"], f["peak_memory_mib"]
            row = [
                name,
                f"{variant}, {1000 * f['seconds']:.3g} ms",
                f"{f['unlabeled_per_second']:,.0f}",
                f"{f['share_of_peak']:.0%}",
                f"{f['data_wait']:.1%}",
                "" if busy is None else f"{busy:.0%}",
                f"{f['profile']['launches']:,.0f}",
                "" if memory is None else f"{memory:,.0f}",
            ]
            lines.append(f"| {' | '.join(row)} |")
    for name, variants in result["settings"].items():
        ours, plain = (variants.get(v.name, {}).get("seconds") for v in (EAGER, FIXMATCH))
        if ours and plain:
            lines += ["", f"- {name}: the MAE branch adds {ours / plain - 1:.0%} to FixMatch."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
