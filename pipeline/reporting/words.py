"""What the report says: what a reader may conclude, and what would settle the rest."""

from collections.abc import Sequence

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.compare import Comparison, Labels, labels_of, over_seeds
from pipeline.reporting.formats import count, duration, limits, p_value, percent, points, work
from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import ALPHA, seeds_to_settle
from pipeline.workspace import flat
from semimae.options.grid import PLAIN
from semimae.options.params import Params


def labels(a: Analysis, fraction: Labels) -> str:
    """Return a label fraction for people, with its number of images."""
    run = a.run_of(fraction)
    number = "" if fraction is None else f" ({count(run.num_labeled)} images)"
    return labels_of(run) + number


def short_labels(a: Analysis, fraction: Labels) -> str:
    """Return the same, short enough for a table and for the selector."""
    number = count(a.run_of(fraction).num_labeled)
    return f"{number} labels" if fraction is None else f"{100 * fraction:g}% ({number})"


def lead(a: Analysis, fraction: Labels) -> str:
    """Say which setting the report speaks of, how good it is, and whether it stands out."""
    found = a.verdicts[fraction]
    spread = over_seeds(a.grid[found.best])
    seeds = f"over {spread.n} seeds" if spread.n > 1 else "with one seed"
    ends = limits(spread.low, spread.high)
    return (
        f"With {labels(a, fraction)}, {found.best.name} reaches {percent(spread.mean)}% test "
        f"top-1 {seeds}{', 95% interval ' * bool(ends)}{ends}. {_runner_up(found.over_next)}"
    )


def _runner_up(c: Comparison | None) -> str:
    if c is None:
        return "The grid has no other method to compare it with."
    other, difference = f"{c.b.name}, the runner-up", f"{points(c.difference.mean)} points"
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
            "`ablation.seed` in params.yaml to learn about it; three are the least that is useful."
        )
    n = seeds_to_settle(c.difference, c.tests)
    if n is None:
        return (
            f"The difference to {c.b.name} is small against its spread over seeds: more than 50 "
            "seeds would be needed to show it, if it is as large as observed."
        )
    more = n - c.difference.n
    seeds = "one more seed" if more == 1 else f"{more} more seeds"
    return (
        f"If the difference to {c.b.name} and its spread are as observed, {seeds} would show it "
        "with a probability of 80%. Add them to `ablation.seed` in params.yaml."
    )


def against(c: Comparison) -> str:
    """Compare two settings over seeds and on the same test images."""
    d = c.difference
    words = f"{c.a.name} compared with {c.b.name}: {points(d.mean)} points"
    if d.n == 1:
        return f"{words} with one seed.{_on_images(c)}"
    if c.p is None:
        return f"{words} on every seed.{_on_images(c)}"
    ends = limits(d.low, d.high, points)
    return f"{words} on the same seeds, 95% interval {ends}; {judgment(c)}.{_on_images(c)}"


def unlabeled(a: Analysis, c: Comparison | None) -> str:
    """Answer whether the unlabeled images helped.

    Args:
        a: What the report draws on.
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
        f"Did the unlabeled images help? {answer} {against(c)} A run of {c.a.name} takes "
        f"{time(a.with_baselines[c.a])}, a run of {c.b.name}, which uses labels only, "
        f"{time(a.with_baselines[c.b])}."
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


def time(runs: Sequence[Run]) -> str:
    """Return how long one of some runs takes."""
    return duration(sum(run.seconds for run in runs) / len(runs))


def cost(run: Run) -> str:
    """Return the images, arithmetic and device of a run."""
    flops = f", {work(run.flops)}" if run.flops else ""
    return f"{count(run.images_seen)} images{flops}, {run.device or 'device unknown'}"


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
    kind = "labeled images, held out in folds," if run.folds > 1 else "validation images"
    images = kind if run.val_images is None else f"{count(run.val_images)} {kind}"
    return f"at the {varied} that {images} prefer"


def changes(params: Params, variant: str) -> str:
    """Return what a variant changes, by the keys of params.yaml."""
    values = flat(params.ablation.changes[variant])
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def p_text(p: float | None) -> str:
    """Return how a p-value reads in a sentence, after the letter p."""
    text = p_value(1.0 if p is None else p)
    return text if text.startswith("<") else f"= {text}"
