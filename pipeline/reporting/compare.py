"""Settings side by side: which to prefer, and by how much."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import (
    ALPHA,
    ByImage,
    Spread,
    by_image,
    holm,
    mean_over_seeds,
    paired_difference,
)
from semimae.options.grid import PLAIN

Metric = Callable[[Run], float]
Labels = float | None  # a label fraction; None: what the headline has instead
BASELINE = "supervised"
TOP1 = "Test top-1"  # how tables and charts call it
_NAMES = {
    "self_training": "Self-training",
    "fixmatch": "FixMatch",
    "flexmatch": "FlexMatch",
    "freematch": "FreeMatch",
    "mae": "MAE",
    "mae_finetune": "MAE, fine-tuned",
    "semi_mae": "Semi-MAE",
    "semi_vit": "Semi-ViT",
    "softmatch": "SoftMatch",
    "ssmae": "SSMAE",
}
# Of variants, where the setting is better known by another name.
_VARIANT_NAMES = {
    ("supervised", "small_cnn"): "Small CNN, labels alone",
    ("fixmatch", "small_cnn"): "Small CNN, FixMatch",
}


class Setting(NamedTuple):
    """What the grid varies, apart from the seed."""

    method: str
    mask_ratio: float | None
    label_fraction: Labels
    variant: str = PLAIN

    @property
    def name(self) -> str:
        """A name for people, without the labels."""
        if own := _VARIANT_NAMES.get((self.method, self.variant)):
            return own
        ratio = "" if self.mask_ratio is None else f", mask {self.mask_ratio:g}"
        variant = "" if self.variant == PLAIN else f", {self.variant}"
        return method_name(self.method) + ratio + variant


Grid = dict[Setting, list[Run]]
Pair = tuple[Setting, Setting]


class Comparison(NamedTuple):
    """``a - b`` in test accuracy on the same seeds and labels."""

    a: Setting
    b: Setting
    difference: Spread
    images: ByImage | None = None  # the same image by image
    p: float | None = None  # adjusted; with one seed, of McNemar's test on the images
    tests: int = 1  # how many it is adjusted for

    @property
    def is_significant(self) -> bool:
        """Whether a difference over seeds is significant after correction."""
        return self.difference.n > 1 and self.p is not None and self.p < ALPHA

    def reversed(self) -> "Comparison":
        """Return ``b - a``."""
        images = self.images and self.images.reversed()
        return self._replace(
            a=self.b, b=self.a, difference=self.difference.reversed(), images=images
        )


class Verdict(NamedTuple):
    """What to prefer for one label fraction: validation accuracy chooses, the test set judges."""

    best: Setting
    tied: list[Setting]  # what validation cannot tell from it, best first
    over_next: Comparison | None  # the method that validation puts second
    over_baseline: Comparison | None


def method_name(method: str) -> str:
    """Return a method's name for people."""
    return _NAMES.get(method, method.replace("_", " ").capitalize())


def setting_of(run: Run) -> Setting:
    """Return a run's setting."""
    return Setting(run.method, run.mask_ratio, run.label_fraction, run.variant)


def by_setting(runs: Iterable[Run]) -> Grid:
    """Group runs that differ in the seed only; the order of first appearance is kept."""
    grid: Grid = defaultdict(list)
    for run in runs:
        grid[setting_of(run)].append(run)
    return dict(grid)


def top1(run: Run) -> float:
    """Return a run's test accuracy."""
    return run.top1


def val_top1(run: Run) -> float:
    """Return a run's validation accuracy."""
    return run.val_top1


def over_seeds(runs: Iterable[Run], metric: Metric = top1) -> Spread:
    """Return the mean and interval of an accuracy over seeds."""
    return mean_over_seeds([metric(run) for run in runs]).clipped()


def mean_known(runs: Iterable[Run], name: str) -> Spread | None:
    """Return the mean and interval of a column of ablation.csv, if a run has it."""
    known = [value for run in runs if (value := getattr(run, name)) is not None]
    return mean_over_seeds(known).clipped() if known else None


def compare(grid: Grid, pairs: Iterable[Pair], metric: Metric = top1) -> list[Comparison]:
    """Return the differences of pairs in a metric; a pair without a common seed is left out.

    P-values are adjusted for the number of pairs.
    """
    found: list[Comparison] = []
    for a, b in pairs:
        ours, theirs = ({run.seed: metric(run) for run in grid[s]} for s in (a, b))
        if (difference := paired_difference(ours, theirs)) is not None:
            images = _by_image(grid[a], grid[b], "test") if metric is top1 else None
            p = images.p if images and difference.n == 1 else difference.p
            found.append(Comparison(a, b, difference, images, p))
    adjusted = holm([c.p for c in found])
    return [c._replace(p=p, tests=len(found)) for c, p in zip(found, adjusted, strict=True)]


def _by_image(a: list[Run], b: list[Run], part: str) -> ByImage | None:
    right = [{r.seed: r.right(part) for r in runs if r.folders} for runs in (a, b)]
    return by_image(*right, shared=part == "test" or same_validation([*a, *b]))


def same_validation(runs: Sequence[Run]) -> bool:
    """Tell whether runs have the same validation images, as seeds have with folds of all labels."""
    rows = [run.predictions.get("val_row") for run in runs if run.folders]
    first = rows[0] if rows else None
    return first is not None and all(r is not None and np.array_equal(r, first) for r in rows)


def validation_by_image(grid: Grid, a: Setting, b: Setting) -> ByImage | None:
    """Compare two settings on their validation images; None where a kept table has none."""
    if not all(run.folders for s in (a, b) for run in grid[s]):
        return None
    return _by_image(grid[a], grid[b], "val")


def differ(grid: Grid, a: Setting, b: Setting) -> bool:
    """Tell whether validation images, over all seeds, show a difference between two settings.

    A kept table has no images: then the order of the accuracies stands.
    """
    if not all(run.folders for s in (a, b) for run in grid[s]):
        return True
    found = validation_by_image(grid, a, b)
    return found is not None and found.p < ALPHA


def labels_of(run: Run) -> str:
    """Say how a run's labels were chosen."""
    if run.label_fraction is not None:
        return f"{100 * run.label_fraction:g}% of labels"
    names = run.cell.data.labeled_list if run.cell else None
    return f"{run.num_labeled:,} labels" + (f" of {Path(names).name}" if names else "")
