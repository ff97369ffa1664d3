"""The report's sections in order; one that has nothing to say is left out."""

from pipeline.reporting import charts, tables, words
from pipeline.reporting.about import provenance_section, runs_section
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import (
    Block,
    Column,
    Facts,
    Figure,
    Section,
    Table,
    Text,
    count,
    duration,
    percent,
)
from pipeline.reporting.compare import labels_of, method_name, over_seeds, setting_of
from pipeline.reporting.headline import (
    headline_section,
    predictions_section,
    reconstructions_section,
)
from pipeline.reporting.tables import TOP1
from pipeline.reporting.training import training_section
from semimae.options.grid import PLAIN

_FEW = 3  # methods; of more all pairs are drawn
_MANY = 8  # rows; a longer table of evidence is folded away


def make_sections(a: Analysis, commit: str | None) -> list[Section]:
    """Return the report's sections; of a kept table those that need no stage files."""
    grid = (_leaderboard, _differences, _variants, _mask_ratios, _equal_time, _labels)
    run = (training_section, headline_section, predictions_section, reconstructions_section)
    found = [
        _answer(a) if a.grid else _headline_only(a),
        *(section(a) for section in grid if a.grid),
        *(section(a) for section in run if a.evidence.params),
        _cost(a),
        runs_section(a),
        provenance_section(a, commit),
    ]
    return [section for section in found if section.blocks]


def _answer(a: Analysis) -> Section:
    """Answer the first questions in words, in four numbers, and for each label fraction."""
    found = a.verdicts[a.main_fraction]
    runs = a.grid[found.best]
    seconds = sum(run.seconds for run in runs) / len(runs)
    against = dict.fromkeys(c for c in (found.over_next, found.over_baseline) if c is not None)
    facts = [
        (f"Test top-1 (%) of {found.best.name}", "percent", over_seeds(runs), ""),
        *(
            (f"Lead over {c.b.name} (points)", "points", c.difference, words.judgment(c))
            for c in against
        ),
        ("Cost of one such run", "seconds", seconds, words.cost(runs)),
    ]
    note, (use, tone) = words.missing(a), words.model_in_use(a)
    total = sum(run.seconds for run in a.evidence.runs)
    whole = (
        f"The whole report holds {count(len(a.evidence.runs))} different runs, which took "
        f"{duration(total)} of training in all: {words.device_hours(a.evidence.runs)}."
    )
    blocks: list[Block] = [
        *([Text(note, tone="note")] if note else []),
        Text(words.lead(a, a.main_fraction), tone="lead"),
        Facts(facts),
        *_ranking(a),
        *(Text(text, tone=tone) for text, tone in words.baselines(a, found.best)),
        *([Text(use, tone=tone)] if use else []),
        *([Text(text)] if (text := words.choice(a, a.main_fraction)) else []),
        *(Text(words.against(c)) for c in against if c.images),
        *([Text(text)] if (text := words.settle(found.over_next)) else []),
        *([tables.fractions(a)] if len(a.verdicts) > 1 else []),
        Text(whole),
        Text(words.rules(a), tone="small"),
    ]
    return Section("answer", "Which setting won?", blocks)


def _headline_only(a: Analysis) -> Section:
    headline = a.evidence.headline
    assert headline is not None, "read_evidence refuses to report nothing"
    scores = headline.details.scores["classifier"]
    lead = (
        f"The headline run, {setting_of(headline).name} with {labels_of(headline)}, reaches "
        f"{percent(headline.top1)}% test top-1. No run of the grid is finished, so there is "
        "nothing to compare it with."
    )
    facts = [
        ("Test top-1 (%)", "percent", scores.top1, ""),
        ("Training time", "seconds", headline.seconds, words.cost([headline])),
    ]
    note, (use, tone) = words.missing(a), words.model_in_use(a)
    blocks: list[Block] = [Text(lead, tone="lead"), Facts(facts), Text(use, tone=tone)]
    return Section(
        "answer", "Which setting won?", [*([Text(note, tone="note")] if note else []), *blocks]
    )


def _leaderboard(a: Analysis) -> Section:
    return Section("leaderboard", "Leaderboard", [tables.leaderboard(a)])


def _ranking(a: Analysis) -> list[Block]:
    table = tables.leaderboard(a)
    if len(table.rows) == 1:
        return []
    several = any(len(line.runs) > 1 for line in table.rows)
    means = "means over seeds with 95% intervals. The ticks are the seeds"
    figure = Figure(
        "leaderboard",
        f"Test top-1: {means if several else 'one seed'}.",
        "Test accuracy of each setting with its interval and its seeds, best first.",
        charts.ranking(charts.color(a.methods), TOP1),
        {
            "settings": table,
            "seeds": tables.runs(a, [run for line in table.rows for run in line.runs]),
        },
        wide=True,
        beside=True,
    )
    return [figure]


def _differences(a: Analysis) -> Section:
    blocks: list[Block] = []
    own = [a.own(a.grid, f) or a.verdicts[f].best for f in a.fractions()]
    against = [c for setting in own for c in a.against(setting, a.between_methods)]
    colors, each = charts.color(a.methods), words.choice_of_settings(a)
    if against:
        mine = method_name(against[0].a.method)
        caption = f"{mine} less the other methods, each {each}."
        table = tables.differences(a, caption, against, a.grid)
        title = f"Lead of {mine} over the other methods, with 95% intervals"
        alt = f"Paired differences of {mine} to the other methods, largest lead first."
        chart = charts.forest(colors, "Difference")
        data = {"differences": table}
        blocks += [Figure("differences", title, alt, chart, data, wide=True, beside=True), table]
    if len(a.methods) > _FEW:
        both = [*a.between_methods, *(c.reversed() for c in a.between_methods)]
        pairs = tables.differences(a, "All pairs of methods, both ways.", both, a.grid)
        title = "All pairs of methods: row less column, in points. * marks what is significant."
        alt = "Paired differences of all methods as a heat map."
        order = dict.fromkeys(c.a.name for c in sorted(both, key=lambda c: -c.difference.mean))
        chart = charts.pairs("Difference", list(order))
        blocks.append(Figure("pairs", title, alt, chart, {"pairs": pairs}, wide=True))
    elif len(a.between_methods) > len(against):
        caption = f"All pairs of methods, each {each}."
        blocks.append(tables.differences(a, caption, a.between_methods, a.grid, folded=True))
    if a.within_methods:
        caption = "Within one method: the setting that validation prefers, less another."
        folded = len(a.within_methods) > _MANY
        blocks.append(tables.differences(a, caption, a.within_methods, a.grid, folded=folded))
    return Section("differences", "Paired differences", blocks)


def _variants(a: Analysis) -> Section:
    params, names = a.evidence.params, list(dict.fromkeys(s.variant for s in a.grid))
    if len(names) < 2:
        return Section("variants", "Variants")
    blocks: list[Block] = [
        Text(
            "A variant changes values that the grid has no list for. A method that does not have "
            "such a value has no row for it. Each row is at the mask ratio that validation prefers."
        )
    ]
    if params is not None:
        values = Column("Values", lambda variant: words.changes(params, variant), "words")
        columns = [Column("Variant", lambda variant: variant), values]
        blocks.append(Table("What they change.", columns, [n for n in names if n != PLAIN]))
    of = (tables.variant_gains, tables.variant_methods)
    found = [table(a, fraction) for fraction in a.fractions() for table in of]
    return Section("variants", "Variants", [*blocks, *(table for table in found if table.rows)])


def _mask_ratios(a: Analysis) -> Section:
    plain = [line for line in tables.by_accuracy(a, a.grid) if line.setting.variant == PLAIN]
    masked = [line for line in plain if line.setting.mask_ratio is not None]
    if len({line.setting.mask_ratio for line in masked}) < 2:
        return Section("mask-ratio", "Mask ratio")
    masked.sort(key=lambda line: line.setting.mask_ratio or 0)
    others = [line for line in plain if line.setting.mask_ratio is None]
    ratio = Column("Mask ratio", lambda line: line.setting.mask_ratio, "number")
    data = {
        "means": tables.means(a, masked, ratio),
        "without": tables.means(a, others, ratio),
    }
    figure = Figure(
        "mask_ratio",
        "Test top-1 over mask ratio. Methods without a mask ratio are dashed lines.",
        "Test accuracy over mask ratio, one line per method.",
        charts.over(charts.color(a.methods), "Mask ratio", TOP1),
        data,
        wide=True,
    )
    return Section("mask-ratio", "Mask ratio", [figure])


def _equal_time(a: Analysis) -> Section:
    if not a.timed:
        return Section("equal-time", "At equal time")
    factors = a.evidence.params.ablation.time_factor if a.evidence.params else {}
    stated = ", ".join(f"{m} {factors[m]:g}" for m in a.methods if m in factors)
    how = f": train.steps times its factor in ablation.time_factor ({stated})" if stated else ""
    text = (
        f"Here each method has as many steps as take about the same time as the others{how}. "
        "The columns of time say how well that was met; other programs do not disturb processor "
        "time."
    )
    blocks: list[Block] = [Text(text), tables.equal_time(a)]
    if a.between_timed:
        caption, folded = "Between methods at equal time.", len(a.between_timed) > _MANY
        blocks.append(tables.differences(a, caption, a.between_timed, a.timed, folded=folded))
    return Section("equal-time", "At equal time", blocks)


def _labels(a: Analysis) -> Section:
    needed = tables.labels_needed(a)
    title = "How many labels do I need?"
    if not needed.rows:
        return Section("labels", title)
    rows = [line for f in a.fractions() for line in tables.lines(a.grid, a.best(a.grid, f))]
    number = Column("Labeled images", lambda line: line.runs[0].num_labeled, "count")
    figure = Figure(
        "labels",
        f"Test top-1 over labeled images, each method {words.choice_of_settings(a)}",
        "Test accuracy over the number of labeled images, one line per method.",
        charts.over(charts.color(a.methods), "Labeled images", TOP1, log=True),
        {"means": tables.means(a, rows, number)},
        wide=True,
    )
    return Section("labels", title, [figure, needed])


def _cost(a: Analysis) -> Section:
    text = (
        "Images are the labeled and unlabeled ones of all steps, repetitions included. Time is "
        "that of training, with its validation. Device-hours are the processor time of all "
        "processes on a CPU, and otherwise the time on all devices. Arithmetic counts the "
        "multiplications and additions of matrix products and convolutions, forward and backward, "
        "from the model; strong views that a CPU run leaves out because their pseudo label is "
        "rejected are counted all the same. Of methods that train in phases, all phases count. "
        "Scoring is in none of it."
    )
    table = tables.costs(a, a.with_baselines, "Cost of one run of each setting, mean over seeds.")
    blocks: list[Block] = [Text(text)]
    if len(table.rows) > 1:
        chart = charts.price(charts.color(a.methods), TOP1)
        title = "Test top-1 over training time, one point per setting"
        alt = "Test accuracy of each setting over the time that one run of it takes."
        data = {"settings": table}
        blocks.append(Figure("cost", title, alt, chart, data, wide=True, beside=True))
    blocks += [table] if table.rows else []
    blocks += [tables.costs(a, a.timed, "The same at equal time.")] if a.timed else []
    return Section("cost", "Cost", blocks)
