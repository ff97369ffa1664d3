"""The report's sections in order; one that has nothing to say is left out."""

from functools import partial

from pipeline.reporting import charts, tables, words
from pipeline.reporting.about import provenance, runs
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.answer import answer, headline_only
from pipeline.reporting.blocks import Block, Column, Figure, Section, Text
from pipeline.reporting.compare import method_name
from pipeline.reporting.headline import headline
from pipeline.reporting.labels import labels
from pipeline.reporting.pictures import predictions, reconstructions
from pipeline.reporting.training import training
from pipeline.reporting.variants import variants
from semimae.options.grid import PLAIN

_FEW = 2  # methods; of more all pairs are drawn
_MANY = 8  # rows; a longer table of evidence is folded away


def make_sections(a: Analysis, commit: str | None) -> list[Section]:
    """Return the report's sections; of a kept table those that need no stage files."""
    grid, stage_files = bool(a.grid), a.evidence.params is not None
    found = (
        ("answer", "Which setting won?", answer if grid else headline_only, True),
        ("leaderboard", "Leaderboard", _leaderboard, grid),
        ("differences", "Paired differences", _differences, grid),
        ("variants", "Variants", variants, grid),
        ("mask-ratio", "Mask ratio", _mask_ratios, grid),
        ("equal-time", "At equal time", _equal_time, grid),
        ("labels", "How many labels do I need?", labels, grid),
        ("training", "Training", training, stage_files),
        ("headline", "Headline run", headline, stage_files),
        ("predictions", "Predictions to look at", predictions, stage_files),
        ("reconstructions", "Reconstructions", reconstructions, stage_files),
        ("cost", "Cost", _cost, True),
        ("runs", "Runs", runs, True),
        ("provenance", "Provenance", partial(provenance, commit=commit), True),
    )
    sections = [
        Section(anchor, title, [block for block in blocks(a) if block])
        for anchor, title, blocks, is_known in found
        if is_known
    ]
    return [section for section in sections if section.blocks]


def _leaderboard(a: Analysis) -> list[Block]:
    return [tables.leaderboard(a)]


def _differences(a: Analysis) -> list[Block]:
    blocks: list[Block] = []
    own = [a.own(a.grid, f) or a.verdicts[f].best for f in a.fractions()]
    against = [c for setting in own for c in a.against(setting, a.between_methods)]
    each = words.choice_of_settings(a)
    if against:
        mine = method_name(against[0].a.method)
        caption = f"{mine} compared with the other methods, each {each}."
        table = tables.differences(a, caption, against, a.grid)
        title = f"Lead of {mine} over the other methods, with 95% intervals"
        color = charts.by_method(a.methods)
        chart = charts.rows("differences", table, "Compared with", "Difference", color)
        blocks += [Figure("differences", title, chart, wide=True, beside=True), table]
    if len(a.methods) > _FEW:
        both = [*a.between_methods, *(c.reversed() for c in a.between_methods)]
        table = tables.differences(a, "All pairs of methods, both ways.", both, a.grid)
        title = "All pairs of methods: row minus column, in points. * marks what is significant."
        order = dict.fromkeys(c.a.name for c in sorted(both, key=lambda c: -c.difference.mean))
        blocks.append(Figure("pairs", title, charts.pairs(table, list(order)), wide=True))
    elif len(a.between_methods) > len(against):
        caption = f"All pairs of methods, each {each}."
        blocks.append(tables.differences(a, caption, a.between_methods, a.grid, folded=True))
    caption = "Within one method: the setting that validation prefers, compared with the others."
    folded = len(a.within_methods) > _MANY
    return [*blocks, tables.differences(a, caption, a.within_methods, a.grid, folded=folded)]


def _mask_ratios(a: Analysis) -> list[Block]:
    plain = [line for line in tables.by_accuracy(a, a.grid) if line.setting.variant == PLAIN]
    plain.sort(key=lambda line: line.setting.mask_ratio or 0)
    if len({line.setting.mask_ratio for line in plain} - {None}) < 2:
        return []
    ratio = Column("Mask ratio", lambda line: line.setting.mask_ratio, "number")
    table, color = tables.means(a, plain, ratio), charts.by_method(a.methods)
    title = "Test top-1 over mask ratio. Methods without a mask ratio are dashed lines."
    return [Figure("mask_ratio", title, charts.over("means", table, ratio.name, color), wide=True)]


def _equal_time(a: Analysis) -> list[Block]:
    if not a.timed:
        return []
    factors = a.evidence.params.ablation.time_factor if a.evidence.params else {}
    stated = ", ".join(f"{m} {factors[m]:g}" for m in a.methods if m in factors)
    how = f": train.steps times its factor in ablation.time_factor ({stated})" if stated else ""
    text = (
        f"Here each method has as many steps as take about the same time as the others{how}. "
        "The columns of time say how well that was met; other programs do not disturb processor "
        "time."
    )
    caption, folded = "Between methods at equal time.", len(a.between_timed) > _MANY
    between = tables.differences(a, caption, a.between_timed, a.timed, folded=folded)
    return [Text(text), tables.equal_time(a), between]


def _cost(a: Analysis) -> list[Block]:
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
    timed = tables.costs(a, a.timed, "The same at equal time.")
    if len(table.rows) < 2:
        return [Text(text), table, timed]
    scale = {"type": "log", "nice": False}
    color = charts.by_method(a.methods)
    chart = charts.over("settings", table, tables.TIME.name, color, line=False, **scale)
    title = "Test top-1 over training time, one point per setting"
    return [Text(text), Figure("cost", title, chart, wide=True, beside=True), table, timed]
