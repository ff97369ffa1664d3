"""How validation chose the setting that the page speaks of, and what labels the model has seen."""

from collections.abc import Sequence

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.compare import (
    Labels,
    Setting,
    over_seeds,
    same_validation,
    val_top1,
    validation_by_image,
)
from pipeline.reporting.formats import count, limits, percent, points
from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import FEWEST
from pipeline.reporting.words import p_text
from semimae.evaluation.metrics import proportion

_LISTED = 4  # settings that are named one by one
_EQUAL = 1e-9


def judges(run: Run) -> str:
    """Name the images that judge a run."""
    number = run.val_images or 0
    if run.folds > 1:
        return f"{count(number)} labeled images, each held out once in {run.folds} folds"
    return f"{count(number)} validation image{'s' * (number != 1)}"


def choice(a: Analysis, fraction: Labels) -> str:
    """Say how the setting was chosen that the page speaks of, and what was tied with it."""
    found = a.verdicts[fraction]
    runs = a.grid[found.best]
    number = runs[0].val_images
    if len([s for s in a.grid if s.label_fraction == fraction]) == 1:
        return ""
    if number is None:
        return f"{found.best.name} was chosen by validation accuracy."
    each = "" if len(runs) == 1 else f" for each of {len(runs)} seeds"
    images = f"{judges(runs[0])}{each}"
    if not found.tied:
        chosen = f"{found.best.name} was chosen by validation accuracy, on {images}."
        return f"{chosen} {_on_these_images(a, fraction)}"
    is_asked = found.best == a.asked._replace(label_fraction=fraction)
    reason = (
        "the setting of `params.yaml`" if is_asked else "which comes first by validation accuracy"
    )
    value = over_seeds(runs, val_top1).mean
    same = [s for s in found.tied if abs(over_seeds(a.grid[s], val_top1).mean - value) < _EQUAL]
    tie = f" {names([found.best, *same])} are tied at {percent(value)}%." if same else ""
    total = number if same_validation(runs) else number * len(runs)
    least = (
        f"a difference of fewer than {FEWEST} images ({100 * FEWEST / total:.1f} points)"
        if total >= FEWEST
        else "no difference at all"
    )
    verb = "is never significant" if total >= FEWEST else "is significant"
    kind, comma = ("labeled", ",") if runs[0].folds > 1 else ("validation", "")
    return (
        f"{images}{comma} cannot tell {names([found.best, *found.tied])} apart, so this report "
        f"focuses on {found.best.name}, {reason}.{tie} On {count(total)} {kind} images {least} "
        f"{verb} (exact McNemar test). {_on_these_images(a, fraction)}"
    )


def _on_these_images(a: Analysis, fraction: Labels) -> str:
    """Give the validation accuracy of the setting, compared with the best other one."""
    best = a.verdicts[fraction].best
    runs = a.grid[best]
    spread = over_seeds(runs, val_top1)
    low, high = spread.low, spread.high
    if len(runs) == 1:
        number = runs[0].val_images or 0
        one = proportion(round(spread.mean * number), number)
        low, high = one.low, one.high
    interval = limits(low, high)
    text = f"{best.name} gets {percent(spread.mean)}%{' ' * bool(interval)}{interval} of them right"
    other = next(s for s in a.by_validation(a.grid, fraction) if s != best)
    c = validation_by_image(a.grid, best, other)
    if c is None:
        return f"{text}."
    return (
        f"{text}, {other.name} {percent(over_seeds(a.grid[other], val_top1).mean)}%: a difference "
        f"of {points(c.mean)} points (95% bootstrap interval over images "
        f"{limits(c.low, c.high, points)}, p {p_text(c.p)})."
    )


def labels_used(run: Run) -> str:
    """Say whether the model has learned from all labels, and how it can."""
    number = run.val_images
    if number is None:
        return ""
    if run.folds > 1:
        return (
            f"It was trained on all {count(run.num_labeled)} labels, after {run.folds} trainings "
            "that each held out a fold of them for validation."
        )
    if run.folds:
        return (
            f"It was trained on all {count(run.num_labeled)} labels, after a training that held "
            f"out {judges(run)}."
        )
    if run.label_fraction != 1:  # few labels on purpose
        return ""
    return (
        f"It has learned from {count(run.num_labeled)} labels and not from {judges(run)}; with "
        "`refit: true` in params.yaml, `make repro` trains it on all of them as well."
    )


def names(settings: Sequence[Setting]) -> str:
    """List settings by their names; the rest of many by its number."""
    found = [s.name for s in settings[:_LISTED]]
    if len(settings) > _LISTED:
        found.append(f"{len(settings) - _LISTED} more")
    return f"{', '.join(found[:-1])} and {found[-1]}"
