"""How many labels do I need? Asked of the fitted curves, within their reach."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.blocks import (
    MINUS,
    NONE,
    TIMES,
    Block,
    Entry,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    Value,
    count,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.compare import BASELINE, Setting, method_name, over_seeds, top1
from pipeline.reporting.figures import Points, label_curves
from pipeline.reporting.label_curve import (
    MIN_FRACTIONS,
    REACH,
    LabelCurve,
    fit_label_curve,
    labels_saved,
)
from pipeline.reporting.plotting import method_look
from pipeline.reporting.study import Study

Fits = dict[str, LabelCurve]
_POOR = 0.01  # a misfit, as a proportion


def labels_section(study: Study) -> Section:
    """Say how many labels each method needs for some accuracies, and how many it saves."""
    title = "How many labels do I need?"
    settings = {m: _settings(study, m) for m in study.methods}
    fits = {m: fit for m, s in settings.items() if (fit := _fit(study, s)) is not None}
    if not fits:
        most = max((len(s) for s in settings.values()), default=0)
        words = (
            f"Not answered: a curve over labels needs at least {MIN_FRACTIONS} label fractions of "
            f"one method, with the same seeds, and the grid has {most}. Add values to "
            "ablation.label_fraction in params.yaml; only the new cells are trained."
        )
        return Section("labels", title, [Text(words)])
    blocks: list[Block] = [
        Text(
            f"Accuracy = ceiling {MINUS} scale {TIMES} labels^({MINUS}exponent), fitted to each "
            f"method's mean accuracy over seeds {study.choice}. "
            "Intervals: 95% bootstrap over seeds, which is optimistic with few seeds and does not "
            f"know whether the law is right{_caution(study)}. Nothing is said beyond {REACH:g} "
            "times the largest measured number of labels, nor below the smallest."
        ),
        Figures([_figure(study, fits, settings)]),
        _needed_table(study, fits),
    ]
    if poor := [m for m, fit in fits.items() if fit.misfit > _POOR]:
        words = (
            f"The law does not fit {', '.join(map(method_name, poor))}: it misses a measured mean "
            f"by up to {percent(max(fits[m].misfit for m in poor))} points. Accuracy does not rise "
            "with labels as the law says; do not rely on the numbers below."
        )
        blocks.insert(1, Text(words, tone="note"))
    if BASELINE in fits and len(fits) > 1:
        blocks.append(_saved_table(study, fits))
    return Section("labels", title, blocks)


def _caution(study: Study) -> str:
    if len(study.fractions) > MIN_FRACTIONS:
        return ""
    return "; it has three numbers, so three fractions cannot check it"


def _settings(study: Study, method: str) -> list[Setting]:
    return [s for f in study.fractions for s in study.best_settings(f) if s.method == method]


def _fit(study: Study, settings: list[Setting]) -> LabelCurve | None:
    if not settings:
        return None
    by_seed = [{r.cell.seed: top1()(r) for r in study.grid[s]} for s in settings]
    seeds = set.intersection(*(set(values) for values in by_seed))
    num_labels = np.array([study.grid[s][0].num_labeled for s in settings], dtype=np.float64)
    return fit_label_curve(
        num_labels, {seed: np.array([values[seed] for values in by_seed]) for seed in seeds}
    )


def _targets(study: Study) -> list[float]:
    means = [over_seeds(results, top1()).mean for results in study.grid.values()]
    ticks = MaxNLocator(6).tick_values(100 * min(means), 100 * max(means))
    return [float(t) / 100 for t in ticks if min(means) <= t / 100 <= min(1.0, max(means) + 0.02)]


def _figure(study: Study, fits: Fits, settings: dict[str, list[Setting]]) -> Figure:
    drawn, measured = {}, []
    for method, fit in fits.items():
        color, marker = method_look(study.methods, method)
        x = np.geomspace(fit.smallest, fit.limit, 60)
        drawn[method] = (color, x, fit.accuracy(x))
        positions = [float(study.grid[s][0].num_labeled) for s in settings[method]]
        spreads = [over_seeds(study.grid[s], top1()) for s in settings[method]]
        measured.append(Points(method_name(method), color, marker, positions, spreads))
    rows: list[list[Entry]] = [
        [method_name(m), percent(f.law[0]), f"{f.law[1]:.3g}", f"{f.law[2]:.3f}", percent(f.misfit)]
        for m, f in fits.items()
    ]
    return Figure(
        name="labels_needed",
        alt="Measured test accuracies over labeled images and the fitted curves, one per method.",
        caption="Measured means (points) and fitted laws (dashed), as far as they are asked.",
        svg=label_curves(drawn, measured),
        table=Table(
            "The fitted laws.",
            [
                *text_columns("Method"),
                *number_columns("Ceiling %", "Scale", "Exponent", "Miss, points"),
            ],
            rows,
            folded=True,
        ),
        command=study.command,
        sources=[study.named(s) for m in fits for s in settings[m]],
    )


def _needed_table(study: Study, fits: Fits) -> Table:
    rows: list[list[Entry]] = [
        [percent(target), *(_needed(fit, target) for fit in fits.values())]
        for target in _targets(study)
    ]
    return Table(
        "Labeled images needed for a test accuracy, with 95% bootstrap intervals.",
        number_columns("Top-1 %", *map(method_name, fits)),
        rows,
    )


def _needed(fit: LabelCurve, target: float) -> Value:
    value, low, high = fit.labels_needed(target)
    detail = f"[{_bounded(fit, low)}, {_bounded(fit, high)}]" if fit.resampled else "1 seed"
    return Value(_bounded(fit, value), detail)


def _bounded(fit: LabelCurve, num_labels: float) -> str:
    if num_labels > fit.limit:
        return f"> {count(fit.limit)}"
    if num_labels < fit.smallest:
        return f"< {count(fit.smallest)}"
    return count(num_labels)


def _saved_table(study: Study, fits: Fits) -> Table:
    others = {method: fit for method, fit in fits.items() if method != BASELINE}
    rows: list[list[Entry]] = [
        [percent(target), *(_saved(fits[BASELINE], fit, target) for fit in others.values())]
        for target in _targets(study)
    ]
    return Table(
        f"Labels saved against {method_name(BASELINE).lower()} training at the same accuracy. "
        f"{NONE}: one of the two is out of reach.",
        number_columns("Top-1 %", *map(method_name, others)),
        rows,
    )


def _saved(baseline: LabelCurve, fit: LabelCurve, target: float) -> Value:
    saved = labels_saved(baseline, fit, target)
    needed = [curve.labels_needed(target)[0] for curve in (baseline, fit)]
    if saved is None or needed[0] < baseline.smallest:
        return Value(NONE)
    if needed[1] < fit.smallest:
        return Value(f"> {count(needed[0] - fit.smallest)}")
    value, low, high = saved
    if not fit.resampled:
        return Value(count(value), "1 seed")
    return Value(
        count(value), f"[{count(low)}, {count(high)}]" if np.isfinite(low) else "no interval"
    )
