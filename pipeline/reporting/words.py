"""What the report says: what a reader may conclude, and what would settle the rest."""

from collections.abc import Sequence

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Interval, count, duration, p_value, percent, points, work
from pipeline.reporting.compare import (
    Comparison,
    Labels,
    Setting,
    compare,
    labels_of,
    method_name,
    over_seeds,
    setting_of,
    val_top1,
)
from pipeline.reporting.rerun import exp_run
from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import ALPHA, FEWEST, seeds_to_settle
from pipeline.workspace import flat
from semimae.options.grid import PLAIN
from semimae.options.params import Params

_FEW_SEEDS = 5
_NAMED = 12  # missing cells that are named one by one on the first screen
_LISTED = 4  # settings that are named one by one


def labels(a: Analysis, fraction: Labels) -> str:
    """Return a label fraction for people, with its number of images."""
    run = a.run_of(fraction)
    number = "" if fraction is None else f" ({count(run.num_labeled)} images)"
    return labels_of(run) + number


def short_labels(a: Analysis, fraction: Labels) -> str:
    """Return the same, short enough for a table and for the selector."""
    number = count(a.run_of(fraction).num_labeled)
    return f"{number} labels" if fraction is None else f"{100 * fraction:g}% ({number})"


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return an interval in percent or, signed, in points."""
    if low is None or high is None:
        return ""
    text = points if signed else percent
    return f"[{text(low)}, {text(high)}]"


def lead(a: Analysis, fraction: Labels) -> str:
    """Say which setting the report speaks of, how good it is, and whether it stands out."""
    found = a.verdicts[fraction]
    spread = over_seeds(a.grid[found.best])
    seeds = f"over {spread.n} seeds" if spread.n > 1 else "with one seed"
    shown = " ".join(filter(None, [f"{percent(spread.mean)}%", "test top-1", seeds]))
    limits = f", 95% interval {interval(spread.low, spread.high)}" if spread.low is not None else ""
    return (
        f"With {labels(a, fraction)}, {found.best.name} reaches {shown}{limits}. "
        f"{runner_up(found.over_next)}"
    )


def runner_up(c: Comparison | None) -> str:
    """Compare the best setting with the next one in a sentence."""
    if c is None:
        return "The grid has no other method to compare it with."
    other = f"{c.b.name}, the runner-up"
    difference = f"{points(c.difference.mean)} points"
    if c.difference.n == 1:
        if c.images_p is None:
            return f"Its lead over {other}, is {difference}; one seed cannot test it."
        p = f"p {_p(c.images_p)}, McNemar test, Holm-corrected"
        if c.images_p >= ALPHA:
            return f"It is not significantly different from {other} ({difference}, {p})."
        better = "better" if c.difference.mean > 0 else "worse"
        return f"On the test images, this one model is significantly {better} than {other} ({p})."
    if c.difference.p is None:
        same = f"It is level with {other}: both have the same accuracy on every seed."
        lead = f"Its lead over {other}, is {difference} on every seed, so there is nothing to test."
        return same if c.difference.mean == 0 else lead
    p = f"p {_p(c.adjusted_p)}, Holm-corrected"
    if not c.is_significant:
        return f"It is not significantly different from {other} ({difference}, {p})."
    better = "better" if c.difference.mean > 0 else "worse"
    return f"It is significantly {better} than {other} ({difference}, {p})."


def judgment(c: Comparison) -> str:
    """Say in a table's cell whether a difference is significant."""
    if c.difference.n == 1:
        p = "" if c.images_p is None else f" (McNemar test on images: p {_p(c.images_p)})"
        return f"one seed{p}"
    if c.difference.p is None:
        return "the same on every seed, no test"
    word = "significant" if c.is_significant else "not significant"
    return f"{word} (p {_p(c.adjusted_p)}, Holm-corrected)"


def settle(c: Comparison | None) -> str:
    """Say what would settle a question that is open."""
    if c is None or c.is_significant or (c.difference.n > 1 and c.difference.p is None):
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
    limits = f", 95% interval {interval(d.low, d.high, signed=True)}" if d.low is not None else ""
    words = f"{c.a.name} less {c.b.name}: {points(d.mean)} points"
    if d.n == 1:
        return f"{words} with one seed.{_on_images(c)}"
    return f"{words} on the same seeds{limits}; {judgment(c)}.{_on_images(c)}"


def _on_images(c: Comparison) -> str:
    found = c.images
    if found is None:
        return ""
    limits = f"95% bootstrap interval over images {interval(found.low, found.high, signed=True)}"
    if found.num_seeds > 1:
        return (
            f" On the same {count(found.num_images)} test images, averaged over "
            f"{found.num_seeds} seeds, the difference is {points(found.mean)} points ({limits})."
        )
    differ = "" if c.images_p is not None and c.images_p < ALPHA else "do not "
    return (
        f" Of the same {count(found.num_images)} test images, {c.a.name} alone is right on "
        f"{count(found.only_a)} and {c.b.name} alone on {count(found.only_b)} ({limits}). These "
        f"two trained models {differ}differ significantly (exact McNemar test, p "
        f"{_p(c.images_p)}, Holm-corrected). That does not cover the randomness of training."
    )


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
    images = f"{count(number)} validation image{'s' * (number != 1)}{each}"
    if not found.tied:
        return f"{found.best.name} was chosen by validation accuracy, on {images}."
    is_asked = found.best == a.asked._replace(label_fraction=fraction)
    reason = (
        "the setting of `params.yaml`" if is_asked else "which comes first by validation accuracy"
    )
    value = over_seeds(runs, val_top1).mean
    same = [s for s in found.tied if abs(over_seeds(a.grid[s], val_top1).mean - value) < 1e-9]
    tie = f" {_list([found.best, *same])} are tied at {percent(value)}%." if same else ""
    total = number * len(runs)
    least = (
        f"a difference of fewer than {FEWEST} images ({100 * FEWEST / total:.1f} points)"
        if total >= FEWEST
        else "no difference at all"
    )
    verb = "is never significant" if total >= FEWEST else "is significant"
    return (
        f"{images} cannot tell {_list([found.best, *found.tied])} apart, so this report speaks of "
        f"{found.best.name}, {reason}.{tie} On {count(total)} validation images {least} {verb} "
        f"(exact McNemar test)."
    )


def baselines(a: Analysis, best: Setting) -> list[tuple[str, str]]:
    """Say how the preferred setting fares against each baseline, and in which tone."""
    pairs = [(s, best) for s in a.baselines if s.label_fraction == best.label_fraction]
    found = []
    for c in compare(a.with_baselines, pairs):
        theirs, d = a.baselines[c.a], c.difference
        limits = f" {interval(d.low, d.high, signed=True)}" if d.low is not None else ""
        reached = f"{c.a.name} reaches {percent(over_seeds(theirs).mean)}% test top-1"
        times = f"{duration(_seconds(theirs))} per run; {best.name} takes {_time(a.grid[best])}"
        if d.mean > 0:
            words = f"The baseline wins. {reached}: {points(d.mean)} points"
            found.append((f"{words}{limits} over {best.name}. It takes {times}.", "note"))
        else:
            words = f"The baseline {reached}. {best.name} is {_above(c)} above it."
            found.append((f"{words} The baseline takes {times}.", ""))
    return found


def _above(c: Comparison) -> str:
    d = c.difference.reversed()
    limits = f" {interval(d.low, d.high, signed=True)}" if d.low is not None else ""
    return f"{percent(d.mean)} points{limits}"


def model_in_use(a: Analysis) -> tuple[str, str]:
    """Say which model the commands use, how to use the one that is recommended, and the tone."""
    headline = a.evidence.headline
    if headline is None or headline.details is None:
        return "", ""
    scores = headline.details.scores["classifier"]
    words = (
        f"`predict`, `export` and `serve` use the model in `runs/headline`: "
        f"{setting_of(headline).name} with {labels_of(headline)}, seed {headline.seed}. It gets "
        f"{percent(scores.top1.value)}% {interval(scores.top1.low, scores.top1.high)} of "
        f"{count(scores.num_images)} test images right."
    )
    fraction = a.asked.label_fraction
    if fraction not in a.fractions():
        return words, ""
    best = a.verdicts[fraction].best
    if best == a.asked:
        return f"{words} Its setting is the one that this report recommends.", ""
    changed = [
        f"{name}={new}"
        for name, new, old in zip(("method", "mask_ratio"), best[:2], a.asked[:2], strict=True)
        if new is not None and new != old
    ]
    steps = [f"run `{exp_run(changed)}`"] if changed else []
    if best.variant != PLAIN:
        steps.append(f"copy the values of variant {best.variant} into params.yaml")
    words += f" This report recommends {best.name} instead. To use that, {' and '.join(steps)}."
    return words, "note"


def missing(a: Analysis) -> str:
    """Name the runs that are asked for and not there."""
    lacking, params = a.evidence.missing, a.evidence.params
    if not lacking or params is None:
        return ""
    named = "; ".join(f"{m.name} ({m.reason})" for m in lacking[:_NAMED])
    more = f"; and {len(lacking) - _NAMED} more, listed under Provenance" * (len(lacking) > _NAMED)
    wanted = len({*params.grid(), params.cell()})
    distinct = len({m.cell for m in lacking})  # the headline can be a cell of the grid
    return (
        f"Incomplete: {distinct} of {wanted} runs that params.yaml asks for are missing and are in "
        f"none of the numbers: {named}{more}. `dvc repro` makes them."
    )


def rules(a: Analysis) -> str:
    """Say how settings are chosen and compared, and what the intervals cover."""
    number = len(a.between_methods)
    text = (
        "Validation accuracy chooses settings and the preferred method; where validation images "
        f"cannot tell settings apart (exact McNemar test over all seeds, {ALPHA:g}), the one of "
        "`params.yaml` stands. Test images only judge. Intervals are 95% t intervals over seeds: "
        "they cover the randomness of training and of the choice of labels, on one fixed test set."
    )
    if number:
        pairs = "the one comparison" if number == 1 else f"all {number} comparisons"
        text += (
            f" Differences are paired by seed. P-values are corrected by Holm's method for {pairs} "
            f"between methods; a difference is called significant below {ALPHA:g}."
        )
    chances = a.num_settings(a.main_fraction)
    if len(set(chances.values())) > 1:
        each = ", ".join(f"{method_name(m)} {n}" for m, n in chances.items())
        text += (
            " Validation chose among different numbers of settings, which favors those with many: "
            f"{each}."
        )
    seeds = max(len(runs) for runs in a.grid.values())
    if number and 1 < seeds < _FEW_SEEDS:
        text += (
            f" With {seeds} seeds, intervals are wide and only large differences are significant: "
            "“not significant” does not mean “no difference”."
        )
    return text


def cost(runs: Sequence[Run]) -> str:
    """Return the images, arithmetic and device of one run, and how its time varies."""
    one = runs[0]
    flops = f", {work(one.flops)}" if one.flops else ""
    return f"{count(one.images_seen)} images{flops}, {one.device or 'device unknown'}"


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
    number = a.evidence.runs[0].val_images
    images = "validation images" if number is None else f"{count(number)} validation images"
    return f"at the {varied} that {images} prefer"


def needed(value: float, low: float, high: float, smallest: float, largest: float) -> Interval:
    """Return a number of labels; what was not measured is said to lie outside."""

    def bounded(number: float) -> str:
        if number > largest:
            return f"> {count(largest)}"
        return f"< {count(smallest)}" if number < smallest else count(number)

    if smallest <= value <= largest:
        return Interval(value, note=f"[{bounded(low)}, {bounded(high)}]" if low != high else "")
    return Interval(None, note=bounded(value))


def _p(p: float | None) -> str:
    text = p_value(1.0 if p is None else p)
    return text if text.startswith("<") else f"= {text}"


def _seconds(runs: Sequence[Run]) -> float:
    return sum(run.seconds for run in runs) / len(runs)


def _time(runs: Sequence[Run]) -> str:
    return duration(_seconds(runs))


def _list(settings: Sequence[Setting]) -> str:
    names = [s.name for s in settings[:_LISTED]]
    if len(settings) > _LISTED:
        names.append(f"{len(settings) - _LISTED} more")
    return f"{', '.join(names[:-1])} and {names[-1]}"


def changes(params: Params, variant: str) -> str:
    """Return what a variant changes, by the keys of params.yaml."""
    values = flat(params.ablation.changes[variant])
    return ", ".join(f"{key}: {value}" for key, value in values.items())
