"""``python -m benchmarks.hours``: the line "Hours" of the recipes for a GPU, all by one function.

It is computed from the newest figures of benchmarks.gpu_bench in benchmarks/results; until there
are some, from the assumptions that docs/performance.md states.
"""

import json
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.settings import RECIPE, SETTINGS
from pipeline.overlay import read
from semimae.engine.phases import phases
from semimae.evaluation.flops import step_flops
from semimae.options.cell import Cell
from semimae.options.params import Params

RECIPES, RESULTS = RECIPE.parent, Path(__file__).parent / "results"
DECODED = 5000.0  # images/s, an assumption
MARK = "GFLOP"  # in every paragraph that is computed
_SMALL = 96  # pixels; larger images are decoded in each step


class Rate(NamedTuple):
    """How fast a GPU is."""

    flops: float  # per second
    step_seconds: float  # no step is shorter
    source: str  # the file that states it


ASSUMED = Rate(0.4 * 790e12, 0.015, "docs/performance.md")


def newest_rate(width: int, folder: Path = RESULTS) -> Rate:
    """Return the newest measured rate of the model whose width is nearest, or what is assumed."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        if result.get("machine", {}).get("kind") == "cuda" and "measured" in result:
            found.append((result["measured"], path.stem, result))
    if not found:
        return ASSUMED
    _, stem, result = max(found, key=lambda entry: entry[:2])
    eager = {
        name: variants["eager"]
        for name, variants in result["settings"].items()
        if "seconds" in variants.get("eager", {})
    }
    nearest = min(eager, key=lambda name: abs(SETTINGS[name].embed_dim - width))
    flops = eager[nearest]["flops"] / eager[nearest]["seconds"]
    least = min(figures["seconds"] for figures in eager.values())
    return Rate(flops, least, f"benchmarks/results/{stem}.json")


@cache
def _step_flops(phase: Cell) -> int:
    return step_flops(phase, 1000 if "imagenet" in str(phase.data.labeled_list) else 10)


def flops_of(phase: Cell) -> int:
    """Return the operations of a phase's step; neither seed nor labels change them."""
    changed = {"seed": 0, "label_fraction": 0.1, "num_labels": None}
    if phase.data.labeled_list is not None:
        changed["label_fraction"] = None
    return _step_flops(phase.model_copy(update=changed))


def seconds_of(cell: Cell, rate: Rate) -> tuple[float, float]:
    """Return what a run computes, and what decoding its images takes meanwhile."""
    large = cell.data.image_size > _SMALL and cell.data.cache_size is None
    computing = decoding = 0.0
    for phase in phases(cell):
        computing += phase.train.steps * max(flops_of(phase) / rate.flops, rate.step_seconds)
        decoding += large * phase.train.steps * phase.images_per_step / DECODED
    return computing, decoding


def hours(params: Params, rate: Rate) -> str:
    """Return the paragraph "Hours" of a recipe."""
    cell = params.cell()
    computing, decoding = (seconds / 3600 for seconds in seconds_of(cell, rate))
    grid = list(params.grid())
    total = sum(max(seconds_of(point, rate)) for point in grid) / 3600
    images = cell.train.steps * cell.num_unlabeled / 1e6
    each = flops_of(phases(cell)[-1]) / cell.num_unlabeled / 1e9
    of_grid = "" if len(grid) < 2 else f", {_short(total)} for the grid of {len(grid)}"
    in_time = f" in {_short(computing)} h, decoded in {_short(decoding)} h" if decoding else ""
    return (
        f"Hours: about {_short(max(computing, decoding))} for one {cell.method} run{of_grid}: an "
        f"estimate ({rate.source}): {each:.3g} {MARK} x {images:.3g} million unlabeled "
        f"images{in_time}."
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def written(text: str, params: Params, rate: Rate) -> str:
    """Return a recipe's text with its computed paragraph."""
    made = textwrap.wrap(hours(params, rate), 97, initial_indent="# ", subsequent_indent="#   ")
    pattern = r"^# Hours: .*\n(?:#   .*\n)*"
    return re.sub(pattern, lambda _: "\n".join(made) + "\n", text, count=1, flags=re.MULTILINE)


def computed() -> list[Path]:
    """Return the recipes whose paragraph says that it is computed."""
    return [path for path in sorted(RECIPES.glob("*.yaml")) if MARK in path.read_text()]


def main() -> None:
    """Write the paragraphs anew."""
    for path in computed():
        params = read(path)
        rate = newest_rate(int(getattr(params.backbone, "embed_dim", 0) or 0))
        path.write_text(written(path.read_text(), params, rate))
        print(path.stem)


if __name__ == "__main__":
    main()
