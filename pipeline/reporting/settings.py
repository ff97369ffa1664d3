"""All settings side by side: leaderboard, paired differences, effects of mask ratio and labels."""

from pipeline.reporting.answer import cost, difference_value, judgment
from pipeline.reporting.baselines import leaderboard_note
from pipeline.reporting.blocks import (
    Block,
    Entry,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    accuracy,
    count,
    number_columns,
    p_value,
    percent,
    text_columns,
)
from pipeline.reporting.compare import (
    Comparison,
    Labels,
    Setting,
    method_name,
    over_seeds,
    top1,
    val_top1,
)
from pipeline.reporting.figures import Points, points_with_intervals
from pipeline.reporting.plotting import method_look
from pipeline.reporting.study import Study
from semimae.options.grid import PLAIN

_PROTOCOLS = ("classifier", "linear_probe", "knn")


def leaderboard_section(study: Study) -> Section:
    """Rank all settings, a table for each label fraction."""
    words = (
        "Means over seeds with 95% t intervals, in %. Sorted by the classifier's test accuracy; "
        "the stressed row is the one that this report speaks of (see above)."
        f"{leaderboard_note(study)}"
    )
    blocks: list[Block] = [Text(words)]
    for fraction in study.fractions:
        found = study.with_baselines
        settings = [s for s in found if s.label_fraction == fraction]
        settings.sort(key=lambda s: -over_seeds(found[s], top1()).mean)
        blocks.append(
            Table(
                study.labels(fraction),
                [
                    *text_columns("Setting"),
                    *number_columns(
                        "Classifier",
                        "Linear probe",
                        "k-NN",
                        "Validation",
                        "Seeds",
                        "Images seen",
                        "Time",
                    ),
                ],
                [_row(study, setting) for setting in settings],
                strong=settings.index(study.verdicts[fraction].best),
            )
        )
    return Section("leaderboard", "Leaderboard", blocks)


def effects_section(study: Study) -> Section:
    """Draw accuracy over mask ratio and over label fraction."""
    blocks: list[Block] = []
    figures: list[Figure] = []
    masked = [f for f in study.fractions if any(s.mask_ratio for s in study.grid)]
    if masked:
        blocks += [
            Text(
                "Points: mean test accuracy over seeds with its 95% t interval. Dashed lines and "
                "bands: the same of methods without a mask ratio."
            ),
        ]
        figures += [_over_mask_ratio(study, fraction) for fraction in masked]
    else:
        blocks.append(Text("No finished method of the grid has a mask ratio."))
    if len(study.fractions) > 1:
        figures.append(_over_labels(study))
    else:
        blocks.append(Text("One label fraction in the grid: no curve over labels."))
    if figures:
        blocks.append(Figures(figures))
    return Section("effects", "Mask ratio and number of labels", blocks)


def differences_section(study: Study) -> Section:
    """List all paired differences, whatever they are."""
    blocks: list[Block] = []
    if study.between_methods:
        blocks.append(
            difference_table(
                study,
                f"Between methods, each {study.choice}.",
                study.between_methods,
            )
        )
    if study.within_methods:
        blocks.append(
            difference_table(
                study,
                "Within one method: the setting that validation prefers, less another.",
                study.within_methods,
            )
        )
    if not blocks:
        blocks.append(Text("One setting per label fraction: nothing to compare."))
    return Section("differences", "Paired differences", blocks)


def _row(study: Study, setting: Setting) -> list[Entry]:
    results = study.with_baselines[setting]
    return [
        study.named(setting),
        *(accuracy(over_seeds(results, top1(protocol))) for protocol in _PROTOCOLS),
        percent(over_seeds(results, val_top1).mean),
        str(len(results)),
        count(results[0].images_seen),
        cost(results),
    ]


def difference_table(
    study: Study, caption: str, comparisons: list[Comparison], *, timed: bool = False
) -> Table:
    """List paired differences with intervals, p-values and whether they are shown."""
    rows: list[list[Entry]] = [
        [
            study.short_labels(c.a.label_fraction),
            study.named(c.a, timed=timed),
            study.named(c.b, timed=timed),
            difference_value(c),
            str(c.difference.n),
            p_value(c.difference.p),
            p_value(c.adjusted_p),
            judgment(c),
        ]
        for c in comparisons
    ]
    return Table(
        f"{caption} Test top-1 in points, on the same seeds; p adjusted by Holm for the "
        f"{len(comparisons)} rows of this table.",
        [
            *text_columns("Labels", "Setting", "less"),
            *number_columns("Mean [95% interval]", "Seeds", "p", "Adjusted p"),
            *text_columns("Shown?"),
        ],
        rows,
    )


def _points(study: Study, settings: list[Setting], positions: list[float]) -> Points:
    method = settings[0].method
    color, marker = method_look(study.methods, method)
    spreads = [over_seeds(study.grid[setting], top1()) for setting in settings]
    name = method_name(method)
    return Points(name, color, marker, positions, spreads)


def _over_mask_ratio(study: Study, fraction: Labels) -> Figure:
    series: list[Points] = []
    ticks: dict[float, str] = {}
    for method in study.methods:
        wanted = (method, fraction, PLAIN)
        settings = [s for s in study.grid if (s.method, s.label_fraction, s.variant) == wanted]
        settings.sort(key=lambda s: s.mask_ratio or 0)
        ratios = [s.mask_ratio for s in settings if s.mask_ratio is not None]
        ticks |= {ratio: f"{ratio:g}" for ratio in ratios}
        if settings:
            series.append(_points(study, settings, ratios))
    settings = [s for s in study.grid if (s.label_fraction, s.variant) == (fraction, PLAIN)]
    return Figure(
        name=f"mask_ratio_{study.file_part(fraction)}",
        alt=f"Test accuracy over mask ratio with {study.labels(fraction)}, one line per method.",
        caption=f"Accuracy over mask ratio, {study.labels(fraction)}.",
        svg=points_with_intervals(series, ticks or {0.5: "0.5"}, "mask ratio"),
        table=_means_table(study, settings),
        command=study.command,
        sources=[study.named(s) for s in settings],
    )


def _over_labels(study: Study) -> Figure:
    series, shown = [], []
    for method in study.methods:
        settings = [
            s for f in study.fractions for s in study.best_settings(f) if s.method == method
        ]
        if settings:
            positions = [float(study.num_labeled(s.label_fraction)) for s in settings]
            series.append(_points(study, settings, positions))
            shown += settings
    ticks = {
        float(study.num_labeled(f)): ("" if f is None else f"{100 * f:g}%\n")
        + count(study.num_labeled(f))
        for f in study.fractions
    }
    return Figure(
        name="label_fraction",
        alt="Test accuracy over the number of labeled images, one line per method.",
        caption=f"Accuracy over labels, each method {study.choice}.",
        svg=points_with_intervals(series, ticks, "labeled images", log=True),
        table=_means_table(study, shown),
        command=study.command,
        sources=[study.named(s) for s in shown],
    )


def _means_table(study: Study, settings: list[Setting]) -> Table:
    return Table(
        "Test top-1 in % with 95% t intervals over seeds.",
        [*text_columns("Setting", "Labels"), *number_columns("Top-1 %", "Seeds")],
        [
            [
                study.named(s),
                study.short_labels(s.label_fraction),
                accuracy(over_seeds(study.grid[s], top1())),
                str(len(study.grid[s])),
            ]
            for s in settings
        ],
        folded=True,
    )
