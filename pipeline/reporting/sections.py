"""The report's sections in order; one that has nothing to say is left out."""

from pipeline.reporting import charts, tables, words
from pipeline.reporting.about import provenance_section, runs_section
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.answer import answer_section, headline_only_section
from pipeline.reporting.blocks import Block, Column, Figure, Section, Text
from pipeline.reporting.compare import method_name
from pipeline.reporting.headline import headline_section
from pipeline.reporting.labels import labels_section
from pipeline.reporting.pictures import predictions_section, reconstructions_section
from pipeline.reporting.tables import TOP1
from pipeline.reporting.training import training_section
from pipeline.reporting.variants import variants_section
from semimae.options.grid import PLAIN

_FEW = 2  # methods; of more all pairs are drawn
_MANY = 8  # rows; a longer table of evidence is folded away


def make_sections(a: Analysis, commit: str | None) -> list[Section]:
    """Return the report's sections; of a kept table those that need no stage files."""
    grid = (_leaderboard, _differences, variants_section, _mask_ratios, _equal_time, labels_section)
    run = (training_section, headline_section, predictions_section, reconstructions_section)
    found = [
        answer_section(a) if a.grid else headline_only_section(a),
        *(section(a) for section in grid if a.grid),
        *(section(a) for section in run if a.evidence.params),
        _cost(a),
        runs_section(a),
        provenance_section(a, commit),
    ]
    return [section for section in found if section.blocks]


def _leaderboard(a: Analysis) -> Section:
    return Section("leaderboard", "Leaderboard", [tables.leaderboard(a)])


def _differences(a: Analysis) -> Section:
    blocks: list[Block] = []
    own = [a.own(a.grid, f) or a.verdicts[f].best for f in a.fractions()]
    against = [c for setting in own for c in a.against(setting, a.between_methods)]
    colors, each = charts.color(a.methods), words.choice_of_settings(a)
    if against:
        mine = method_name(against[0].a.method)
        caption = f"{mine} compared with the other methods, each {each}."
        table = tables.differences(a, caption, against, a.grid)
        title = f"Lead of {mine} over the other methods, with 95% intervals"
        alt = f"Paired differences of {mine} to the other methods, largest lead first."
        chart = charts.forest(colors, "Difference")
        data = {"differences": table}
        blocks += [Figure("differences", title, alt, chart, data, wide=True, beside=True), table]
    if len(a.methods) > _FEW:
        both = [*a.between_methods, *(c.reversed() for c in a.between_methods)]
        pairs = tables.differences(a, "All pairs of methods, both ways.", both, a.grid)
        title = "All pairs of methods: row minus column, in points. * marks what is significant."
        alt = "Paired differences of all methods as a heat map."
        order = dict.fromkeys(c.a.name for c in sorted(both, key=lambda c: -c.difference.mean))
        chart = charts.pairs("Difference", list(order))
        blocks.append(Figure("pairs", title, alt, chart, {"pairs": pairs}, wide=True))
    elif len(a.between_methods) > len(against):
        caption = f"All pairs of methods, each {each}."
        blocks.append(tables.differences(a, caption, a.between_methods, a.grid, folded=True))
    if a.within_methods:
        caption = (
            "Within one method: the setting that validation prefers, compared with the others."
        )
        folded = len(a.within_methods) > _MANY
        blocks.append(tables.differences(a, caption, a.within_methods, a.grid, folded=folded))
    return Section("differences", "Paired differences", blocks)


def _mask_ratios(a: Analysis) -> Section:
    plain = [line for line in tables.by_accuracy(a, a.grid) if line.setting.variant == PLAIN]
    masked = [line for line in plain if line.setting.mask_ratio is not None]
    if len({line.setting.mask_ratio for line in masked}) < 2:
        return Section("mask-ratio", "Mask ratio")
    masked.sort(key=lambda line: line.setting.mask_ratio or 0)
    others = [line for line in plain if line.setting.mask_ratio is None]
    ratio = Column("Mask ratio", lambda line: line.setting.mask_ratio, "number")
    data = {"means": tables.means(a, masked, ratio), "without": tables.means(a, others, ratio)}
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
