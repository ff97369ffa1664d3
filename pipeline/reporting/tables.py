"""The tables of the settings: one ``Column(name, getter)`` for all of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pipeline.reporting import words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Column, Interval, Link, Table
from pipeline.reporting.compare import (
    TOP1,
    Comparison,
    Grid,
    Setting,
    mean_known,
    method_name,
    over_seeds,
    setting_of,
    val_top1,
)
from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import Spread, mean_over_seeds
from semimae.evaluation.metrics import wilson


class Line(NamedTuple):
    """A setting with its runs, and what else a table says of it."""

    setting: Setting
    runs: list[Run]
    lead: Comparison | None = None
    other: Comparison | None = None


def lines(grid: Grid, settings: Sequence[Setting] | None = None) -> list[Line]:
    """Return the rows of some settings."""
    return [Line(s, grid[s]) for s in (grid if settings is None else settings)]


def mean(heading: str, name: str, kind: str, *, interval: bool = False) -> Column:
    """Return the column of the means of a column of ablation.csv, perhaps with intervals."""

    def get(line: Line) -> Any:
        spread = mean_known(line.runs, name)
        if interval:
            return spread or Interval(None, note="not known")
        return spread and spread.mean

    return Column(heading, get, kind)


SETTING = Column("Setting", lambda line: Link(line.setting.name, f"#{line.runs[0].anchor}"))
METHOD = Column("Method", lambda line: method_name(line.setting.method), "key")
ACCURACY = Column(TOP1, lambda line: over_seeds(line.runs), "percent")
SEEDS = Column("Seeds", lambda line: len(line.runs), "count")
TIME = mean("Time per run", "seconds", "seconds")
STEPS = Column("Steps", lambda line: line.runs[0].steps, "count")
IMAGES = Column("Images seen", lambda line: line.runs[0].images_seen, "count")
VALIDATION = mean("Validation", "val_top1", "percent")
RESULT = Column("Result", lambda n: n.lead and words.judgment(n.lead), "words")


def labels_column(a: Analysis) -> Column:
    """Return the column of label fractions, of rows that begin with a setting."""
    kind = "text" if len({*a.fractions(), *a.fractions(a.timed)}) > 1 else "key"
    return Column("Labels", lambda row: words.short_labels(a, row[0].label_fraction), kind)


def by_accuracy(a: Analysis, grid: Grid) -> list[Line]:
    """Return the settings of each label fraction, the main one first, by test accuracy."""
    fractions = sorted(a.fractions(grid), key=lambda f: f != a.asked.label_fraction)
    found = lines(grid)
    found.sort(key=lambda n: (fractions.index(n[0].label_fraction), -over_seeds(n.runs).mean))
    return found


def means(a: Analysis, rows: Sequence[Line], extra: Column) -> Table:
    """Accuracies of some settings, with what else a chart needs to place them."""
    columns = [SETTING, METHOD, labels_column(a), extra, ACCURACY, SEEDS]
    return Table("Means over seeds with 95% t intervals.", columns, rows)


def leaderboard(a: Analysis) -> Table:
    """All settings by test accuracy; the row that the report speaks of is stressed."""
    rows = by_accuracy(a, a.with_baselines)
    best = a.verdicts[a.main_fraction].best
    note = ""
    if names := list(dict.fromkeys(s.name for s in a.baselines)):
        note = f" Nothing is chosen among the baselines: {'; '.join(names)}."
    frozen = (("Linear probe", "linear_probe"), ("k-NN", "knn"))
    return Table(
        "Means over seeds in % with 95% t intervals, by the classifier's test accuracy. The "
        f"highlighted row is the setting that this report focuses on.{note}",
        [
            *(SETTING, METHOD, labels_column(a), ACCURACY),
            *(mean(heading, name, "percent", interval=True) for heading, name in frozen),
            *(VALIDATION, SEEDS, IMAGES, TIME),
        ],
        rows,
        strong=next((row for row in rows if row.setting == best), None),
    )


def differences(
    a: Analysis, caption: str, found: Sequence[Comparison], grid: Grid, *, folded: bool = False
) -> Table:
    """Paired differences with intervals and corrected p-values."""

    def link(setting: Setting) -> Link:
        return Link(setting.name, f"#{grid[setting][0].anchor}")

    tests = f"for {found[0].tests} comparisons" if found else ""
    return Table(
        f"{caption} Test top-1 in points, paired by seed. P-values are corrected by Holm's method "
        f"{tests}.",
        [
            labels_column(a),
            Column("Setting", lambda c: link(c.a)),
            Column("Compared with", lambda c: link(c.b)),
            Column("Method", lambda c: method_name(c.b.method), "key"),
            Column("Significant", lambda c: c.is_significant, "key"),
            Column("Difference", lambda c: c.difference, "points"),
            Column("Seeds", lambda c: c.difference.n, "count"),
            Column("p", lambda c: c.difference.p, "p"),
            Column("Result", words.judgment, "words"),
        ],
        found,
        folded,
    )


def fractions(a: Analysis) -> Table:
    """The setting that the report speaks of, for each number of labels."""
    found = a.verdicts
    rows = [Line(v.best, a.grid[v.best], v.over_next, v.over_baseline) for v in found.values()]

    def is_chosen(line: Line) -> str:
        return "undecided" if found[line.setting.label_fraction].tied else "best"

    def lead(heading: str, of: Callable[[Line], Comparison | None]) -> list[Column]:
        def answer(line: Line) -> str | None:
            c = of(line)
            return c and words.judgment(c, short=True)

        difference = Column(heading, lambda line: (c := of(line)) and c.difference, "points")
        return [difference, Column("Significant?", answer)]

    return Table(
        "The setting that this report focuses on, for each number of labels. P-values are "
        "corrected by Holm's method.",
        [
            *(labels_column(a), SETTING, Column("Validation", is_chosen), ACCURACY),
            *lead("Lead over the runner-up", lambda line: line.lead),
            *lead("Lead over supervised", lambda line: line.other),
        ],
        rows,
        strong=rows[list(found).index(a.main_fraction)],
    )


def equal_time(a: Analysis) -> Table:
    """The methods when each trains for as long as the others."""
    rows = [n for f in a.fractions(a.timed) for n in lines(a.timed, a.ranked(a.timed, f))]
    rows.sort(key=lambda n: -over_seeds(n.runs).mean)
    cpu = mean("Processor time", "cpu_seconds", "seconds")
    columns = [SETTING, METHOD, labels_column(a), ACCURACY, VALIDATION, SEEDS, STEPS, IMAGES, TIME]
    caption = f"Each method {words.choice_of_settings(a)}, at equal time."
    return Table(caption, [*columns, cpu], rows)


def costs(a: Analysis, grid: Grid, caption: str) -> Table:
    """What one run of each setting costs."""
    device = Column("Device", lambda n: ", ".join(dict.fromkeys(r.origin.machine for r in n.runs)))
    hours = mean("Device-hours", "device_hours", "number")
    columns = [SETTING, METHOD, labels_column(a), ACCURACY, SEEDS, IMAGES, TIME, hours]
    return Table(caption, [*columns, mean("Arithmetic", "flops", "work"), device], lines(grid))


def pseudo_labels(a: Analysis) -> Table:
    """Coverage and accuracy of the pseudo labels at the end of training, and of which images."""
    best = [setting for fraction in a.fractions() for setting in a.best(a.grid, fraction)]
    use_them = [s for s in best if a.grid[s][0].val_pseudo_coverage_final is not None]
    return Table(
        "Pseudo labels in use at the end of training, in %. Images whose label is trained on never "
        "count. Where the classes of the other unlabeled images are not known, validation images "
        "stand for them: they get their pseudo label by the same model and rule, but are seen "
        "whole, without a weak view. Intervals: t over seeds; with one seed, Wilson over the "
        "validation images in use.",
        [
            *(SETTING, METHOD, labels_column(a)),
            mean("Coverage", "pseudo_coverage_final", "percent", interval=True),
            mean("Right, unlabeled images", "pseudo_accuracy_final", "percent", interval=True),
            Column("Right, validation images", _right_on_validation, "percent"),
            Column("Validation images in use", _validation_in_use, "count"),
            Column("Validation images", lambda n: sum(r.val_images or 0 for r in n.runs), "count"),
        ],
        lines(a.grid, use_them),
    )


def _validation_in_use(line: Line) -> float:
    shares = ((r.val_pseudo_coverage_final or 0.0, r.val_images or 0) for r in line.runs)
    return float(sum(share * images for share, images in shares))


def _right_on_validation(line: Line) -> Spread | Interval:
    known = [r.val_pseudo_accuracy_final for r in line.runs]
    values = [value for value in known if value is not None]
    if not values:
        return Interval(None, note="not known")
    if len(values) > 1:
        return mean_over_seeds(values).clipped()
    return Interval(values[0], *wilson(values[0], _validation_in_use(line)))


def runs(a: Analysis, found: Sequence[Run]) -> Table:
    """Every run with its folder, commit and MLflow run: what the other tables link to."""

    def commit(run: Run) -> str | None:
        code = f", code {run.origin.code}" if run.origin.code else ""
        return run.commit and run.commit[:10] + code

    def mlflow(run: Run) -> Any:
        text = run.mlflow_run and run.mlflow_run[:8]
        return Link(text, run.mlflow) if text and run.mlflow else text

    def folders(run: Run) -> str:
        return ", ".join(f"runs/{path.name}" for path in run.folders) or run.folder

    return Table(
        "Every run.",
        [
            Column("Run", lambda run: run.name),
            Column("Setting", lambda run: setting_of(run).name, "key"),
            Column("Method", lambda run: method_name(run.method), "key"),
            Column("Labels", lambda run: words.short_labels(a, run.label_fraction), "key"),
            Column("Seed", lambda run: run.seed, "key"),
            Column(TOP1, lambda run: run.top1, "percent"),
            Column("Validation", val_top1, "percent"),
            Column("Steps", lambda run: run.steps, "count"),
            Column("Time", lambda run: run.seconds, "seconds"),
            Column("Commit", commit),
            Column("MLflow run", mlflow),
            Column("Cell id", lambda run: run.cell_id),
            Column("Folders", folders, "words"),
        ],
        found,
        folded=len(found) > 12,
        anchor=lambda run: run.anchor,
    )
