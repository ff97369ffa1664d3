"""A short study on CIFAR-10 on one GPU: does the MAE branch help FixMatch?

    python -m benchmarks.gpu_study --images FOLDER --out FOLDER [--bench FILE] [--seconds N]

FOLDER has train/CLASS/ and test/CLASS/. Hypothesis: with the same steps, batches and views,
semi_mae with a balanced weight of the reconstruction has a higher validation accuracy than
fixmatch. Two seeds are a direction and no proof, and the report says so. The test images are not
looked at.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.loop import trained_rows
from benchmarks.measure import machine
from benchmarks.settings import RECIPE, SETTINGS, make_images
from pipeline.overlay import read
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Row
from semimae.files import write_text
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.params import Params

METHODS, SEEDS = ("fixmatch", "semi_mae"), (0, 1)
STEP_SECONDS = 0.015  # where none was measured
SHARE = 0.75  # of the time that is left: four runs at once may hinder each other more than fourfold
SHOWN = ("val/top1", "val/pseudo_accuracy", "val/pseudo_coverage")
NORMS = ("grad_norm", "gradient/consistency", "gradient/reconstruction", "weight/reconstruction")


def make_params(method: str, seed: int, steps: int, rehearse: bool) -> Params:
    """Return recipe cifar10 with another length, images from files, and a balanced weight."""
    tree: dict[str, Any] = read(RECIPE).model_dump()
    tree |= {"dataset": "imagefolder", "method": method, "seed": seed}
    tree["train"] |= {
        "steps": steps,
        "eval_every": max(1, steps // 8),
        "log_every": max(1, steps // 40),
        "save_every": steps,
        "gradient_every": max(1, steps // 40),
        "device": "cuda",
    }
    tree["optim"]["warmup_steps"] = steps // 20
    tree["mim"]["weighting"] = "gradient"
    if rehearse:
        tiny = SETTINGS["tiny"]
        tree["label_fraction"] = 0.5
        tree["data"]["image_size"] = tiny.image_size
        tree["train"] |= {"batch_size": 4, "mu": 2, "device": "cpu", "threads": 1}
        tree["backbone"] |= {"embed_dim": tiny.embed_dim, "depth": 2, "num_heads": 2}
        tree["mim"] |= {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    return Params.model_validate(tree)


def run_one(folder: Path, method: str, seed: int, steps: int, end: float, rehearse: bool) -> None:
    """Train one run until it is done or the time is over; what it says is kept as it says it."""
    params = make_params(method, seed, steps, rehearse)
    cell = params.cell()
    prepared = Prepared.read(folder / "prepared", folder / "images")
    split = make_split(
        prepared,
        seed=seed,
        label_fraction=cell.label_fraction,
        val_fraction=cell.data.val_fraction,
        include_labeled=True,
    )
    rows: dict[str, list[Row]] = {"train": [], "val": []}
    path = folder / f"{method}-{seed}.json"

    def keep(kind: str, row: Row) -> None:
        rows[kind].append(row)
        if kind == "val":
            record = {
                "method": method,
                "seed": seed,
                "steps": steps,
                "num_labels": len(split.labeled),
            }
            write_text(path, json.dumps(record | rows, indent=1))

    trained_rows(cell, (prepared, split), params.train, folder / path.stem, keep, end)


def report(folder: Path) -> str:
    """Return what the runs have said, as Markdown."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*-[0-9].json"))]
    runs = [run for run in runs if run["val"]]
    lines = [
        "| method | seed | step | validation top-1 | pseudo labels right | covered | norms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    last: dict[str, dict[int, float]] = {}
    for run in runs:
        row, train = run["val"][-1], run["train"][-1]
        last.setdefault(run["method"], {})[run["seed"]] = row["val/top1"]
        shown = [f"{row[name]:.4f}" if name in row else "" for name in SHOWN]
        norms = ", ".join(f"{name} {train[name]:.3g}" for name in NORMS if name in train)
        cells = [run["method"], run["seed"], f"{row['step']:.0f} of {run['steps']}", *shown, norms]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    ours, theirs = last.get("semi_mae", {}), last.get("fixmatch", {})
    gains = [100 * (ours[seed] - theirs[seed]) for seed in ours.keys() & theirs.keys()]
    if gains:
        each = ", ".join(f"{gain:+.2f}" for gain in gains)
        lines += [
            "",
            f"semi_mae less fixmatch, points: {each}; mean {statistics.mean(gains):+.2f}.",
        ]
        lines += ["Two seeds give a direction, and prove nothing."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Prepare the images, run all at once, and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_study", description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bench", type=Path, help="figures of benchmarks.gpu_bench")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, drawn images")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a child: its run and its end
    options = parser.parse_args(arguments)
    out: Path = options.out
    if options.one:
        method, seed, steps, end = options.one
        run_one(out, method, int(seed), int(steps), float(end), options.rehearse)
        return
    end = time.time() + options.seconds
    out.mkdir(parents=True, exist_ok=True)
    if options.rehearse:
        make_images(SETTINGS["tiny"], out / "images")
    elif not (out / "images").exists():
        (out / "images").symlink_to(options.images.resolve())
    data = make_params("fixmatch", 0, 100, options.rehearse).data
    prepare("imagefolder", data, out / "images", out / "prepared")
    steps = 8 if options.rehearse else planned_steps(options.bench, end - time.time())
    device = torch.device("cpu" if options.rehearse else "cuda")
    write_text(out / "study.json", json.dumps(machine(device) | {"steps": steps}, indent=1))
    seeds = SEEDS[:1] if options.rehearse else SEEDS
    command = [sys.executable, "-m", "benchmarks.gpu_study", "--out", str(out)]
    command += ["--rehearse"] * options.rehearse
    children = [
        subprocess.Popen([*command, "--one", method, str(seed), str(steps), str(end)])
        for method in METHODS
        for seed in seeds
    ]
    codes = [child.wait() for child in children]
    write_text(out / "study.md", report(out))
    print(report(out))
    if any(codes):
        raise SystemExit(f"{sum(map(bool, codes))} of {len(codes)} runs failed")


def planned_steps(bench: Path | None, seconds: float) -> int:
    """Return how many steps four runs at once make in the time that is left."""
    each = STEP_SECONDS
    if bench is not None and bench.is_file():
        measured = json.loads(bench.read_text())["settings"].get("ViT-Ti/4@32", {})
        each = measured.get("eager", {}).get("seconds", each)
    together = len(METHODS) * len(SEEDS) * each
    return max(200, min(40_200, int(SHARE * seconds / together)))


if __name__ == "__main__":
    main()
