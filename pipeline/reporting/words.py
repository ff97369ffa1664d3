"""What the report says: what a reader may conclude, and what would settle the rest."""

from collections.abc import Sequence

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.compare import Comparison
from pipeline.reporting.formats import count, duration, limits, p_value, percent, points, work
from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import ALPHA, seeds_to_settle
from semimae.options.grid import PLAIN


def labels(run: Run) -> str:
    """Return how a run's labels were chosen, with their number."""
    number = "" if run.label_fraction is None else f" ({count(run.num_labeled)} images)"
    return run.labels + number


def lead(a: Analysis) -> str:
    """Say which setting the report speaks of, how good it is, and whether it stands out."""
    found = a.main
    spread = found.best.mean()
    seeds = f"over {spread.n} seeds" if spread.n > 1 else "with one seed"
    ends = limits(spread.low, spread.high)
    return (
        f"{_verdict(found.over_next)}With {labels(found.best.first)}, {found.best.name} reaches "
        f"{percent(spread.mean)}% test top-1 {seeds}{', 95% interval ' * bool(ends)}{ends}. "
        f"{_runner_up(found.over_next)}"
    )


def _verdict(c: Comparison | None) -> str:
    """Say whether a method won, where there are seeds to tell by."""
    if c is None or c.difference.n == 1:
        return ""
    if c.is_significant:
        return f"{c.a.name} won. " if c.difference.mean > 0 else ""
    return "No method won clearly. "


def _runner_up(c: Comparison | None) -> str:
    if c is None:
        return "The grid has no other method to compare it with."
    other = f"{c.b.name}, the runner-up by validation accuracy"
    difference = f"{points(c.difference.mean)} points"
    one_seed = c.difference.n == 1
    if c.p is None and c.difference.mean == 0:
        return f"It is level with {other}."
    if c.p is None:
        same = "the same on every seed, so there is nothing to test"
        return f"Its lead over {other}, is {difference}, {same}."
    test = f"p {p_text(c.p)}{', McNemar test' * one_seed}, Holm-corrected"
    if c.p >= ALPHA:
        return f"It is not significantly different from {other} ({difference}, {test})."
    better = "better" if c.difference.mean > 0 else "worse"
    what = "On the test images, this one model" if one_seed else "It"
    return f"{what} is significantly {better} than {other} ({difference}, {test})."


def judgment(c: Comparison, *, short: bool = False) -> str:
    """Say in a table's cell whether a difference is significant.

    A narrow column asks "significant?", and its caption says how p-values are corrected.
    """
    if c.p is None:
        return "no test"
    if c.difference.n == 1:
        return f"McNemar test: p {p_text(c.p)}"
    if short:
        return f"{'yes' if c.is_significant else 'no'} (p {p_text(c.p)})"
    return f"{'not ' * (not c.is_significant)}significant (p {p_text(c.p)}, Holm-corrected)"


def settle(c: Comparison | None) -> str:
    """Say what would settle a question that is open."""
    if c is None or c.is_significant or (c.difference.n > 1 and c.p is None):
        return ""
    if c.difference.n == 1:
        return (
            "One seed says nothing about the randomness of training. Add seeds to "
            "`ablation.seed` in params.yaml to learn about it; use at least three."
        )
    n = seeds_to_settle(c.difference, c.tests)
    if n is None:
        return (
            f"The difference from {c.b.name} is small compared with its spread over seeds: if it "
            "is as large as observed, more than 50 seeds would be needed to show it."
        )
    more = n - c.difference.n
    seeds = "one more seed" if more == 1 else f"{more} more seeds"
    return (
        f"If the difference from {c.b.name} and its spread are as observed, {seeds} would show it "
        "with a probability of 80%. Add them to `ablation.seed` in params.yaml."
    )


def against(c: Comparison) -> str:
    """Compare two settings over seeds and on the same test images."""
    d = c.difference
    lead = f"{c.a.name} compared with {c.b.name}: {points(d.mean)} points"
    if d.n == 1:
        return f"{lead} with one seed.{_on_images(c)}"
    if c.p is None:
        return f"{lead} on every seed.{_on_images(c)}"
    ends = limits(d.low, d.high, points)
    return f"{lead} on the same seeds, 95% interval {ends}; {judgment(c)}.{_on_images(c)}"


def unlabeled(c: Comparison | None) -> str:
    """Answer whether the unlabeled images helped.

    Args:
        c: The best setting that uses them, compared with the best one that does not.
    """
    if c is None:
        return ""
    if c.p is None or c.p >= ALPHA:
        answer = "Not significantly."
    elif c.difference.mean > 0:
        answer = "Yes, in this one run of each." if c.difference.n == 1 else "Yes."
    else:
        answer = "No, they made it worse."
    return (
        f"Did the unlabeled images help? {answer} {against(c)} {times(c)} The latter uses labeled "
        "images only."
    )


def frozen(runs: Sequence[Run]) -> str:
    """Say how good the starting weights are without any training, if runs start from some."""
    found = {r.seed: r.frozen for r in runs if r.frozen}
    if not found:
        return ""
    probe, knn = (
        percent(sum(s[name].top1.value for s in found.values()) / len(found))
        for name in ("linear_probe", "knn")
    )
    seeds = f" (mean over {len(found)} seeds)" if len(found) > 1 else ""
    return (
        f"The starting weights, frozen, reach {probe}% with a linear probe on the same labels and "
        f"{knn}% with k-NN{seeds}, without any training of the backbone."
    )


def _on_images(c: Comparison) -> str:
    found = c.images
    if found is None:
        return ""
    ends = f"95% bootstrap interval over images {limits(found.low, found.high, points)}"
    if found.num_seeds > 1:
        return (
            f" On the same {count(found.num_images)} test images, averaged over "
            f"{found.num_seeds} seeds, the difference is {points(found.mean)} points ({ends})."
        )
    differ = "" if c.p is not None and c.p < ALPHA else "do not "
    return (
        f" Of the same {count(found.num_images)} test images, {c.a.name} alone is right on "
        f"{count(found.only_a)} and {c.b.name} alone on {count(found.only_b)} ({ends}). These "
        f"two trained models {differ}differ significantly (exact McNemar test, p {p_text(c.p)}, "
        "Holm-corrected). That does not cover the randomness of training."
    )


def times(c: Comparison) -> str:
    """Say how long a run of each of two settings takes."""
    a, b = (duration(sum(r.seconds for r in s.runs) / len(s.runs)) for s in (c.a, c.b))
    return f"A run of {c.a.name} takes {a}, a run of {c.b.name} {b}."


def cost(run: Run) -> str:
    """Return the images, arithmetic and device of a run."""
    flops = f", {work(run.flops)}" if run.flops else ""
    return f"{count(run.images_seen)} images seen{flops}, {run.device or 'device unknown'}"


def device_hours(runs: Sequence[Run]) -> str:
    """Return the hours of each kind of device that some runs took, for people."""
    hours: dict[str, float] = {}
    for run in runs:
        hours[run.device or "device"] = hours.get(run.device or "device", 0) + run.device_hours
    names = {"cpu": "CPU-hours", "cuda": "GPU-hours"}
    return " and ".join(f"{n:.3g} {names.get(kind, f'{kind} hours')}" for kind, n in hours.items())


def choice_of_settings(a: Analysis) -> str:
    """Say which of a method's settings stands for it."""
    params = a.evidence.params
    varied = "mask ratio" if params and params.ablation.variant == [PLAIN] else "setting"
    run = a.evidence.runs[0]
    images = "validation images" if run.val_images is None else run.held_out
    return f"at the {varied} that did best on {images}"


def p_text(p: float | None) -> str:
    """Return how a p-value reads in a sentence, after the letter p."""
    text = p_value(1.0 if p is None else p)
    return text if text.startswith("<") else f"= {text}"
