"""The first screen: which setting won, by how much, is it significant, what did it cost."""

from pipeline.reporting.baselines import baseline_blocks
from pipeline.reporting.blocks import (
    NONE,
    Block,
    Entry,
    Facts,
    Section,
    Table,
    Text,
    Value,
    accuracy,
    count,
    duration,
    interval,
    number_columns,
    p_value,
    percent,
    points,
    text_columns,
    work,
)
from pipeline.reporting.by_image import ALPHA
from pipeline.reporting.choice import choice_sentence, detectable, image_sentence, model_in_use
from pipeline.reporting.compare import Comparison, method_name, over_seeds, setting_of, top1
from pipeline.reporting.cost import device_hours
from pipeline.reporting.evidence import Result
from pipeline.reporting.study import Study

_FEW_SEEDS = 5
_NAMED = 12  # missing cells that are named one by one on the first screen


def answer_section(study: Study) -> Section:
    """Answer the first questions in words, in four numbers, and for each label fraction."""
    answer = _verdict(study) if study.grid else _headline_only(study)
    return Section("answer", "Which setting won?", [*_missing(study), *answer])


def judgment(comparison: Comparison) -> Value:
    """Say whether a difference is shown, and if not, why not."""
    d = comparison.difference
    if comparison.is_shown:
        return Value("yes")
    if d.n == 1:
        p = comparison.images_p
        by_images = "" if p is None else f"; on test images p {p_value(p)}"
        return Value("no", f"one seed: no interval{by_images}")
    if d.low is None or d.high is None:
        return Value("no", "the same on every seed: no interval")
    crosses = d.low <= 0 <= d.high
    return Value(
        "no", "the interval includes zero" if crosses else "zero is excluded only before correction"
    )


def difference_value(comparison: Comparison | None) -> Value:
    """Return a difference in points with its interval."""
    if comparison is None:
        return Value(NONE)
    d = comparison.difference
    no_interval = "1 seed" if d.n == 1 else "seeds equal"
    return Value(points(d.mean), interval(d.low, d.high, signed=True) or no_interval)


def cost(results: list[Result]) -> str:
    """Return the mean training time of some runs."""
    return duration(sum(r.seconds for r in results) / len(results))


def _verdict(study: Study) -> list[Block]:
    fraction = study.main_fraction
    found = study.verdicts[fraction]
    results = study.grid[found.best]
    spread = over_seeds(results, top1())
    total = sum(r.seconds for r in study.evidence.results)
    seeds = f"{spread.n} seeds" if spread.n > 1 else "one seed, no interval"
    lead = (
        f"With {study.labels(fraction)}, {choice_sentence(study, fraction)}: "
        f"{percent(spread.mean)}% test top-1 ({seeds}).{_short_answer(found.over_next)}"
    )
    facts = [
        (f"Test top-1 % of {found.best.name}", accuracy(spread)),
        (f"Points over the next: {_other(found.over_next)}", difference_value(found.over_next)),
        ("Points over the supervised baseline", difference_value(found.over_baseline)),
        (
            "Cost of one such run",
            Value(cost(results), _amount(results[0])),
        ),
    ]
    return [
        Text(lead, tone="lead"),
        *baseline_blocks(study, found.best),
        *model_in_use(study),
        *detectable(study, fraction),
        *_sentences(found.over_next, found.over_baseline),
        Facts(facts),
        _fraction_table(study),
        Text(_method_of_comparison(study)),
        Text(
            f"The whole report: {len(study.evidence.results)} different runs, "
            f"{duration(total)} of training in all: {device_hours(study.evidence.results)}.",
            link=("#cost", "Costs in full"),
        ),
    ]


def _short_answer(over_next: Comparison | None) -> str:
    if over_next is None:
        return ""
    one_seed, p = over_next.difference.n == 1, over_next.images_p
    significant = (p is not None and p < ALPHA) if one_seed else over_next.is_shown
    if not significant:
        return f" Not significantly different from {over_next.b.name}, the runner-up."
    better = "better" if over_next.difference.mean > 0 else "worse"
    where = "this trained model is" if one_seed else "it is"
    return (
        f" On the test set {where} significantly {better} than {over_next.b.name}, the runner-up."
    )


def _sentences(*comparisons: Comparison | None) -> list[Block]:
    blocks: list[Block] = []
    for c in dict.fromkeys(c for c in comparisons if c is not None):
        d = c.difference
        details = []
        if d.low is not None:
            details.append(f"95% interval {interval(d.low, d.high, signed=True)}")
        if c.adjusted_p is not None:
            details.append(f"adjusted p {p_value(c.adjusted_p)}")
        numbers = f" ({', '.join(details)})" if details else ""
        shown = judgment(c)
        verb = f"not significant ({shown.detail})" if shown.detail else "significant"
        words = f"Against {c.b.name}: {points(d.mean)} points on the same seeds{numbers}; {verb}."
        blocks.append(Text(f"{words}{image_sentence(c)}"))
    if not blocks:
        blocks.append(Text("There is no other method in the grid to compare it with."))
    return blocks


def _fraction_table(study: Study) -> Table:
    rows: list[list[Entry]] = []
    for fraction, found in study.verdicts.items():
        results = study.grid[found.best]
        rows.append(
            [
                study.short_labels(fraction),
                study.named(found.best),
                Value(
                    "undecided" if found.tied else "yes",
                    f"{count(sum(r.num_val for r in results))} images",
                ),
                accuracy(over_seeds(results, top1())),
                *versus(found.over_next),
                *versus(found.over_baseline),
                cost(results),
            ]
        )
    return Table(
        "The setting that this report speaks of, for each number of labels: test top-1 in %, "
        "differences in points.",
        [
            *text_columns("Labels", "Setting", "Chosen by validation"),
            *number_columns("Top-1 %", "Over the next"),
            *text_columns("Shown?"),
            *number_columns("Over supervised"),
            *text_columns("Shown?"),
            *number_columns("Time per run"),
        ],
        rows,
        strong=study.fractions.index(study.main_fraction),
    )


def versus(comparison: Comparison | None) -> list[Entry]:
    """Return a difference, and in short whether it is shown."""
    if comparison is None:
        return [NONE, NONE]
    p = comparison.adjusted_p
    shown = "yes" if comparison.is_shown else "no"
    if comparison.difference.n == 1:
        shown = "one seed"
    return [difference_value(comparison), Value(shown, f"p {p_value(p)}" if p is not None else "")]


def _method_of_comparison(study: Study) -> str:
    n, chances = study.num_seeds, study.num_settings(study.main_fraction)
    number = len(study.between_methods)
    pairs = "the one comparison" if number == 1 else f"all {number} comparisons"
    text = (
        "Settings and the preferred method are chosen by validation accuracy, or are those of "
        "`params.yaml` where validation images cannot tell settings apart (exact McNemar test over "
        f"all seeds, {ALPHA:g}); the test set only judges. Differences are paired by seed, with "
        "95% t intervals over seeds: they cover the randomness of training and of the choice of "
        "labels, on one fixed test set. P-values are adjusted by Holm's method for "
        f"{pairs} between methods; a difference counts as shown below {ALPHA:g}."
    )
    if len(set(chances.values())) > 1:
        listed = ", ".join(f"{method_name(method)} {count}" for method, count in chances.items())
        text += (
            f" Validation chose among different numbers of settings, which favors those with "
            f"many: {listed}."
        )
    if n == 1:
        return (
            text + " One seed says nothing about the randomness of training: add seeds to "
            "ablation.seed in params.yaml. What it can say is whether two trained models differ on "
            "the test images."
        )
    if n < _FEW_SEEDS:
        text += (
            f" With {n} seeds intervals are wide and only large differences can be shown: "
            "“not significant” does not mean “no difference”."
        )
    return text


def _other(comparison: Comparison | None) -> str:
    return comparison.b.name if comparison else "there is none"


def _headline_only(study: Study) -> list[Block]:
    headline = study.evidence.headline
    assert headline is not None, "read_evidence refuses to report nothing"
    scores = headline.scores["classifier"]
    words = f"{setting_of(headline).name} with {headline.labels}"
    return [
        Text(
            f"The headline run, {words}, reaches {percent(scores.top1.value)}% test top-1. "
            "No run of the grid is finished, so there is nothing to compare it with.",
            tone="lead",
        ),
        *model_in_use(study),
        Facts(
            [
                (
                    "Test top-1, %",
                    Value(percent(scores.top1.value), interval(scores.top1.low, scores.top1.high)),
                ),
                ("Labeled images", Value(count(headline.num_labeled))),
                ("Images seen", Value(count(headline.images_seen))),
                (
                    "Training time",
                    Value(duration(headline.seconds), _amount(headline)),
                ),
            ]
        ),
    ]


def _amount(result: Result) -> str:
    flops = f", {work(result.origin.flops)}" if result.origin.flops else ""
    return f"{count(result.images_seen)} images{flops}, {result.origin.device or 'device unknown'}"


def _missing(study: Study) -> list[Block]:
    missing = study.evidence.missing
    if not missing:
        return []
    distinct = {m.cell for m in missing}  # the headline can be a cell of the grid
    named = "; ".join(f"{m.name} ({m.reason})" for m in missing[:_NAMED])
    more = f"; and {len(missing) - _NAMED} more, listed under Provenance" * (len(missing) > _NAMED)
    params = study.evidence.params
    wanted = len({*params.grid(), params.cell()})
    return [
        Text(
            f"Incomplete: {len(distinct)} of {wanted} runs that params.yaml asks for are missing, "
            f"and are in none of the numbers: {named}{more}. `dvc repro` makes them.",
            tone="note",
        )
    ]
