"""The first screen: which setting won, by how much, is it significant, what did it cost."""

from pipeline.reporting import charts, tables, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Facts, Figure, Text
from pipeline.reporting.choice import choice, labels_used
from pipeline.reporting.compare import (
    TOP1,
    Setting,
    compare,
    labels_of,
    method_name,
    over_seeds,
    setting_of,
)
from pipeline.reporting.formats import count, duration, limits, percent, points
from pipeline.reporting.rerun import exp_run
from pipeline.reporting.statistics import ALPHA
from semimae.options.grid import PLAIN

_FEW_SEEDS = 5
_NAMED = 12  # missing cells that are named one by one on the first screen


def answer(a: Analysis) -> list[Block]:
    """Answer the first questions in words, in four numbers, and for each label fraction."""
    found = a.verdicts[a.main_fraction]
    runs = a.grid[found.best]
    seconds = sum(run.seconds for run in runs) / len(runs)
    helped = a.help_of_unlabeled(a.main_fraction)
    against = dict.fromkeys(c for c in (found.over_next, found.over_baseline) if c is not None)
    facts = [
        (f"Test top-1 (%) of {found.best.name}", "percent", over_seeds(runs), ""),
        *(
            (f"Lead over {c.b.name} (points)", "points", c.difference, words.judgment(c))
            for c in against
        ),
        ("Cost of one such run", "seconds", seconds, words.cost(runs[0])),
    ]
    total = sum(run.seconds for run in a.evidence.runs)
    whole = (
        f"The report covers {count(len(a.evidence.runs))} distinct runs with {duration(total)} of "
        f"training in total: {words.device_hours(a.evidence.runs)}."
    )
    return [
        Text(_missing(a), tone="note"),
        Text(words.lead(a, a.main_fraction), tone="lead"),
        Facts(facts),
        *_ranking(a),
        Text(words.unlabeled(a, helped)),
        Text(words.frozen(a.evidence.runs)),
        *_baselines(a, found.best),
        *_model_in_use(a),
        Text(choice(a, a.main_fraction)),
        *(Text(words.against(c)) for c in against if c.images and c != helped),
        Text(words.settle(found.over_next)),
        *([tables.fractions(a)] if len(a.verdicts) > 1 else []),
        Text(whole),
        Text(_rules(a), tone="small"),
    ]


def headline_only(a: Analysis) -> list[Block]:
    """Say how good the headline is, where no run of the grid is finished."""
    headline = a.evidence.headline
    assert headline is not None, "read_evidence refuses to report nothing"
    lead = (
        f"The headline run, {setting_of(headline).name} with {labels_of(headline)}, reaches "
        f"{percent(headline.top1)}% test top-1. No run of the grid is finished, so there is "
        "nothing to compare it with."
    )
    facts = [
        ("Test top-1 (%)", "percent", headline.scores["classifier"].top1, ""),
        ("Training time", "seconds", headline.seconds, words.cost(headline)),
    ]
    missing = Text(_missing(a), tone="note")
    return [missing, Text(lead, tone="lead"), Facts(facts), *_model_in_use(a)]


def _ranking(a: Analysis) -> list[Block]:
    table = tables.leaderboard(a)
    if len(table.rows) == 1:
        return []
    several = any(len(line.runs) > 1 for line in table.rows)
    means = "means over seeds with 95% intervals. The ticks are the seeds"
    seeds = tables.runs(a, [run for line in table.rows for run in line.runs])
    color = charts.by_method(a.methods)
    chart = charts.rows("settings", table, "Setting", TOP1, color, seeds=seeds)
    title = f"Test top-1: {means if several else 'one seed'}."
    return [Figure("leaderboard", title, chart, wide=True, beside=True)]


def _model_in_use(a: Analysis) -> list[Text]:
    """Say which model the commands use, and how to use the one that is recommended."""
    headline = a.evidence.headline
    if headline is None or not headline.scores:
        return []
    scores = headline.scores["classifier"]
    text = (
        f"`predict`, `export` and `serve` use the model in `runs/headline`: "
        f"{setting_of(headline).name} with {labels_of(headline)}, seed {headline.seed}. It gets "
        f"{percent(scores.top1.value)}% {limits(scores.top1.low, scores.top1.high)} of "
        f"{count(scores.num_images)} test images right. {labels_used(headline)}"
    )
    fraction = a.asked.label_fraction
    if fraction not in a.fractions():
        return [Text(text)]
    best = a.verdicts[fraction].best
    if best == a.asked:
        return [Text(f"{text} Its setting is the one that this report recommends.")]
    changed = [
        f"{name}={new}"
        for name, new, old in zip(("method", "mask_ratio"), best[:2], a.asked[:2], strict=True)
        if new is not None and new != old
    ]
    steps = [f"run `{exp_run(changed)}`"] if changed else []
    if best.variant != PLAIN:
        steps.append(f"copy the values of variant {best.variant} into params.yaml")
    text += f" This report recommends {best.name} instead. To use that, {' and '.join(steps)}."
    return [Text(text, tone="note")]


def _missing(a: Analysis) -> str:
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


def _rules(a: Analysis) -> str:
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


def _baselines(a: Analysis, best: Setting) -> list[Text]:
    """Say how the preferred setting fares against each baseline."""
    pairs = [(s, best) for s in a.baselines if s.label_fraction == best.label_fraction]
    found = []
    for c in compare(a.with_baselines, pairs):
        wins = c.difference.mean > 0
        d = c.difference if wins else c.difference.reversed()
        by = f"{percent(d.mean)} points {limits(d.low, d.high, points)}".rstrip()
        reached = f"{c.a.name} reaches {percent(over_seeds(a.baselines[c.a]).mean)}% test top-1"
        text = (
            f"The baseline wins. {reached}, {by} more than {best.name}."
            if wins
            else f"The baseline {reached}; {best.name} is {by} above it."
        )
        times = (
            f"{words.time(a.with_baselines[c.a])}, one of {best.name} {words.time(a.grid[best])}"
        )
        found.append(Text(f"{text} One run of it takes {times}.", tone="note" if wins else ""))
    return found
