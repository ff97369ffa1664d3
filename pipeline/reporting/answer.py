"""The first screen: which setting won, by how much, is it significant, what did it cost."""

from collections import Counter
from collections.abc import Sequence

from pipeline.reporting import tables, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Text
from pipeline.reporting.charts import Chart
from pipeline.reporting.compare import Setting, compare, same_validation, validation_by_image
from pipeline.reporting.formats import count, duration, limits, percent, points
from pipeline.reporting.runs import Run, method_name
from pipeline.reporting.statistics import ALPHA, FEWEST
from semimae.evaluation.metrics import proportion
from semimae.options.grid import PLAIN

_FEW_SEEDS = 5
_NAMED = 12  # missing cells that are named one by one on the first screen
_LISTED = 4  # the same of settings


def answer(a: Analysis) -> list[Block]:
    """Answer the first questions in words, in four numbers, and for each label fraction."""
    if not a.grid:
        return _headline_only(a)
    best, _, over_next, over_baseline = a.main
    runs, helped = a.evidence.runs, a.help_of_unlabeled()
    leads = dict.fromkeys(c for c in (over_next, over_baseline) if c is not None)
    seconds = sum(run.seconds for run in best.runs) / len(best.runs)
    facts = [
        (f"Test top-1 (%) of {best.name}", "percent", best.mean(), ""),
        *(
            (f"Lead over {c.b.name} (points)", "points", c.difference, words.judgment(c))
            for c in leads
        ),
        (f"Training time of one run of {best.name}", "seconds", seconds, words.cost(best.first)),
    ]
    whole = (
        f"The report covers {count(len(runs))} distinct run{'s' * (len(runs) != 1)} with "
        f"{duration(sum(run.seconds for run in runs))} of training in total: "
        f"{words.device_hours(runs)}."
    )
    return [
        Text(_missing(a), "note"),
        Text(words.lead(a), "lead", facts=facts),
        *_ranking(a),
        Text(words.unlabeled(helped)),
        Text(words.frozen(runs)),
        *_baselines(a),
        _model_in_use(a),
        Text(_choice(a)),
        *(Text(words.against(c)) for c in leads if c.images and c != helped),
        Text(words.settle(over_next)),
        *([tables.each_fraction(a)] if len(a.verdicts) > 1 else []),
        Text(whole),
        Text(_rules(a), "small"),
    ]


def _headline_only(a: Analysis) -> list[Block]:
    run = a.evidence.headline
    assert run is not None, "read_evidence refuses to report nothing"
    lead = (
        f"The headline run, {run.setting} with {run.labels}, reaches {percent(run.top1)}% test "
        "top-1. No run of the grid is finished, so there is nothing to compare it with."
    )
    facts = [
        ("Test top-1 (%)", "percent", run.scores["classifier"].top1, ""),
        ("Training time", "seconds", run.seconds, words.cost(run)),
    ]
    return [Text(_missing(a), "note"), Text(lead, "lead", facts=facts), _model_in_use(a)]


def _ranking(a: Analysis) -> list[Block]:
    table = tables.leaderboard(a)
    if len(table.rows) == 1:
        return []
    means = "means over seeds with 95% intervals. The ticks are the seeds"
    several = any(len(setting.runs) > 1 for setting in table.rows)
    # Settings are chosen on validation images, so the preferred one need not be the first.
    title = f"Test top-1, best first: {means if several else 'one seed'}."
    seeds = tables.runs([run for setting in table.rows for run in setting.runs])
    chart = Chart("leaderboard", title, table, a.methods, beside=True)
    return [chart.rows(tables.ACCURACY_NAME, seeds=seeds)]


def _model_in_use(a: Analysis) -> Text:
    """Say which model the commands use, and how to use the one that is recommended."""
    run = a.evidence.headline
    if run is None or not run.scores:
        return Text("")
    top1 = run.scores["classifier"].top1
    text = (
        f"`predict`, `export` and `serve` use the model in `runs/headline`: {run.setting} with "
        f"{run.labels}, seed {run.seed}. It classifies {percent(top1.value)}% "
        f"{limits(top1.low, top1.high)} of {count(run.scores['classifier'].num_images)} test "
        f"images correctly. {_labels_used(run)}"
    )
    if run.label_fraction not in a.verdicts:
        return Text(text)
    best = a.verdicts[run.label_fraction].best
    if a.is_asked(best):
        return Text(f"{text} Its setting is the one that this report recommends.")
    steps = [f"-S method={best.method}"] if best.method != run.method else []
    if best.mask_ratio not in (None, run.mask_ratio):
        steps.append(f"-S mask_ratio={best.mask_ratio}")
    todo = [f"run `dvc exp run {' '.join(steps)}`"] if steps else []
    if best.variant != PLAIN:
        todo.append(f"copy the values of variant {best.variant} into params.yaml")
    text += f" This report recommends {best.name} instead. To use that, {' and '.join(todo)}."
    return Text(text, "note")


def _labels_used(run: Run) -> str:
    """Say whether the model has learned from all labels, and how it can."""
    labels = f"{count(run.num_labeled)} labels"
    if run.val_images is None or not (run.folds or run.label_fraction == 1):
        return ""  # with few labels on purpose, the others are not missed
    if run.folds > 1:
        return (
            f"It was trained on all {labels}, after {run.folds} trainings that each held out a "
            "fold of them for validation."
        )
    if run.folds:
        return f"It was trained on all {labels}, after a training that held out {run.held_out}."
    return (
        f"It has learned from {labels} and not from {run.held_out}; with `refit: true` in "
        "params.yaml, `make repro` trains it on all of them as well."
    )


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
        f"none of the numbers: {named}{more}. Run `dvc repro` to make them."
    )


def _rules(a: Analysis) -> str:
    """Say how settings are chosen and compared, and what the intervals cover."""
    number, fraction = len(a.between_methods), a.main.best.label_fraction
    text = (
        "Validation accuracy chooses settings and the preferred method. Where validation images "
        f"cannot tell settings apart (exact McNemar test over all seeds, p < {ALPHA:g}), that of "
        "`params.yaml` is preferred. Test images choose nothing. Intervals are 95% t intervals "
        "over seeds: they cover the randomness of training and of the choice of labels, on one "
        "fixed test set."
    )
    if number:
        pairs = "the one comparison" if number == 1 else f"all {number} comparisons"
        text += (
            f" Differences are paired by seed. P-values are corrected by Holm's method for {pairs} "
            f"between methods; a difference is called significant below {ALPHA:g}. Intervals are "
            "not corrected, so one may exclude zero although its difference is not significant."
        )
    chances = Counter(s.method for s in a.grid if s.label_fraction == fraction)
    if len(set(chances.values())) > 1:
        each = ", ".join(f"{method_name(m)} {n}" for m, n in chances.items())
        text += (
            " Validation chose among different numbers of settings, which favors methods that "
            f"have many: {each}."
        )
    seeds = max(len(setting.runs) for setting in a.grid)
    if number and 1 < seeds < _FEW_SEEDS:
        text += (
            f" With {seeds} seeds, intervals are wide and only large differences are significant: "
            "“not significant” does not mean “no difference”."
        )
    return text


def _baselines(a: Analysis) -> list[Text]:
    """Say how each baseline fares against the preferred setting."""
    best = a.main.best
    pairs = [(s, best) for s in a.baselines if s.label_fraction == best.label_fraction]
    return [
        Text(f"The baseline wins. {text}", "note") if c.difference.mean > 0 else Text(text)
        for c in compare(pairs)
        for text in [f"{words.against(c)} {words.times(c)}"]
    ]


def _choice(a: Analysis) -> str:
    """Say how the setting was chosen that the page speaks of, and what was tied with it."""
    best, tied, *_ = a.main
    if len([s for s in a.grid if s.label_fraction == best.label_fraction]) == 1:
        return ""
    run, number = best.first, best.first.val_images
    if number is None:
        return f"{best.name} was chosen by validation accuracy."
    comma = "," if run.folds > 1 else ""
    each = f"{comma} for each of {len(best.runs)} seeds" if len(best.runs) > 1 else ""
    if not tied:
        chosen = f"{best.name} was chosen by validation accuracy, on {run.held_out}{each}."
        return f"{chosen} {_on_validation(a, best)}"
    first = "which comes first by validation accuracy"
    reason = "the setting of `params.yaml`" if a.is_asked(best) else first
    total = number if same_validation(best.runs) else number * len(best.runs)
    least = (
        f"a difference of fewer than {FEWEST} images ({100 * FEWEST / total:.1f} points) is never"
        if total >= FEWEST
        else "no difference is"
    )
    return (
        f"Validation cannot tell {_names([best, *tied])} apart on {run.held_out}{each}, so this "
        f"report focuses on {best.name}, {reason}. On {count(total)} images, {least} significant "
        f"(exact McNemar test). {_on_validation(a, best)}"
    )


def _on_validation(a: Analysis, best: Setting) -> str:
    """Give the validation accuracy of the setting, compared with the best other one."""
    spread = best.mean("val_top1")
    low, high = spread.low, spread.high
    if len(best.runs) == 1:
        number = best.first.val_images or 0
        one = proportion(round(spread.mean * number), number)
        low, high = one.low, one.high
    text = f"{best.name} gets {percent(spread.mean)}% {limits(low, high)}".rstrip()
    other = next(s for s in a.by_validation(a.grid, best.label_fraction) if s != best)
    c = validation_by_image(best, other)
    if c is None:
        return f"{text} of them right."
    return (
        f"{text} of them right, {other.name} {percent(other.mean('val_top1').mean)}%: a difference "
        f"of {points(c.mean)} points (95% bootstrap interval over images "
        f"{limits(c.low, c.high, points)}, p {words.p_text(c.p)})."
    )


def _names(settings: Sequence[Setting]) -> str:
    """List settings by their names; the rest of many by its number."""
    found = [s.name for s in settings[:_LISTED]]
    if len(settings) > _LISTED:
        found.append(f"{len(settings) - _LISTED} more")
    return f"{', '.join(found[:-1])} and {found[-1]}"
