"""The tables of the settings: one ``Column(name, getter)`` for all of them."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from pipeline.reporting import words
from pipeline.reporting.analysis import Analysis, fractions
from pipeline.reporting.blocks import Column, Interval, Link, Table
from pipeline.reporting.compare import Comparison, Setting
from pipeline.reporting.runs import Run, method_name
from pipeline.reporting.statistics import Spread, mean_over_seeds
from semimae.evaluation.metrics import wilson

ACCURACY_NAME = "Test top-1"
_MANY = 12  # rows; a longer table of evidence is folded away


def link(setting: Setting) -> Link:
    """Return a setting's name, which leads to its first run."""
    return Link(setting.name, f"#run-{setting.first.cell_id}")


def mean(heading: str, name: str, kind: str, *, interval: bool = False) -> Column:
    """Return the column of the means of a column of ablation.csv, perhaps with intervals."""

    def get(setting: Setting) -> Any:
        spread = setting.mean_known(name)
        if interval:
            return spread or Interval(None, note="not known")
        return spread and spread.mean

    return Column(heading, get, kind)


def labels_column(a: Analysis, of: Callable[[Any], Setting] = lambda row: row) -> Column:
    """Return the column of label fractions, which is shown if there are several."""
    kind = "text" if len({*fractions(a.grid), *fractions(a.timed)}) > 1 else "key"
    return Column("Labels", lambda row: of(row).first.short_labels, kind)


def lead_columns(
    heading: str, leads: Mapping[Setting, Comparison | None], result: str = "Result"
) -> list[Column]:
    """Return what some settings have over others, and whether that is significant."""

    def judged(setting: Setting) -> str | None:
        c = leads.get(setting)
        return c and words.judgment(c, short=result.endswith("?"))

    def difference(setting: Setting) -> Spread | None:
        c = leads.get(setting)
        return c and c.difference

    kind = "text" if result.endswith("?") else "words"
    return [Column(heading, difference, "points"), Column(result, judged, kind)]


SETTING = Column("Setting", link)
METHOD = Column("Method", lambda setting: method_name(setting.method), "key")
ACCURACY = Column(ACCURACY_NAME, lambda setting: setting.mean(), "percent")
SEEDS = Column("Seeds", lambda setting: len(setting.runs), "count")
TIME = mean("Time per run", "seconds", "seconds")
STEPS = Column("Steps", lambda setting: setting.first.steps, "count")
IMAGES = Column("Images seen", lambda setting: setting.first.images_seen, "count")
VALIDATION = mean("Validation", "val_top1", "percent")


def by_accuracy(settings: Sequence[Setting]) -> list[Setting]:
    """Return settings by test accuracy."""
    return sorted(settings, key=lambda s: -s.mean().mean)


def means(a: Analysis, settings: Sequence[Setting], extra: Column) -> Table:
    """Accuracies of some settings, with what else a chart needs to place them."""
    columns = [SETTING, METHOD, labels_column(a), extra, ACCURACY, SEEDS]
    return Table("Means over seeds with 95% t intervals.", columns, settings)


def leaderboard(a: Analysis) -> Table:
    """All settings by test accuracy; the row that the report speaks of is stressed."""
    best = a.main.best
    settings = by_accuracy([*a.grid, *a.baselines])
    order = [best.label_fraction, *fractions([*a.grid, *a.baselines])]
    settings.sort(key=lambda s: order.index(s.label_fraction))
    names = dict.fromkeys(s.name for s in a.baselines)
    note = f" Baselines are never recommended: {'; '.join(names)}." if names else ""
    frozen = (("Linear probe", "linear_probe"), ("k-NN", "knn"))
    return Table(
        "Means over seeds in % with 95% t intervals, by the classifier's test accuracy. The "
        f"highlighted row is the setting that this report focuses on.{note}",
        [
            *(SETTING, METHOD, labels_column(a), ACCURACY),
            *(mean(heading, name, "percent", interval=True) for heading, name in frozen),
            *(VALIDATION, SEEDS, IMAGES, TIME),
        ],
        settings,
        strong=best,
    )


def differences(a: Analysis, caption: str, found: Sequence[Comparison]) -> Table:
    """Paired differences with intervals and corrected p-values."""
    tests = found[0].tests if found else 0
    holm = f" P-values are corrected by Holm's method for {tests} comparisons." * (tests > 1)
    return Table(
        f"{caption} Test top-1 in points, paired by seed.{holm}",
        [
            labels_column(a, itemgetter(0)),
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
        folded=len(found) > _MANY,
    )


def each_fraction(a: Analysis) -> Table:
    """The setting that the report speaks of, for each number of labels."""
    found = {v.best: v for v in a.verdicts.values()}
    decided = Column("Validation", lambda s: "undecided" if found[s].tied else "best")
    next_ones = {best: v.over_next for best, v in found.items()}
    baselines = {best: v.over_baseline for best, v in found.items()}
    return Table(
        "The setting that this report focuses on, for each number of labels. P-values are "
        "corrected by Holm's method.",
        [
            *(labels_column(a), SETTING, decided, ACCURACY),
            *lead_columns("Lead over the runner-up", next_ones, "Significant?"),
            *lead_columns("Lead over supervised", baselines, "Significant?"),
        ],
        list(found),
        strong=a.main.best,
    )


def costs(a: Analysis, settings: Sequence[Setting], caption: str) -> Table:
    """What one run of each setting costs."""
    devices = Column("Device", lambda s: ", ".join({r.origin.machine: None for r in s.runs}))
    hours = mean("Device-hours", "device_hours", "number")
    columns = [SETTING, METHOD, labels_column(a), ACCURACY, SEEDS, STEPS, IMAGES, TIME, hours]
    return Table(caption, [*columns, mean("Arithmetic", "flops", "work"), devices], settings)


def pseudo_labels(a: Analysis) -> Table:
    """Coverage and accuracy of the pseudo labels at the end of training, and of which images."""
    return Table(
        "Pseudo labels in use at the end of training, in %. Images whose true label is used in "
        "training never count. Where the classes of the other unlabeled images are not known, "
        "validation images stand in for them: the same model and rule label them, but from the "
        "whole image, without a weak view. Intervals are t intervals over seeds; with one seed, "
        "Wilson intervals over the validation images in use.",
        [
            *(SETTING, METHOD, labels_column(a)),
            mean("Coverage", "pseudo_coverage_final", "percent", interval=True),
            mean("Right, unlabeled images", "pseudo_accuracy_final", "percent", interval=True),
            Column("Right, validation images", _right_on_validation, "percent"),
            Column("Validation images in use", _validation_in_use, "count"),
            Column("Validation images", lambda s: sum(r.val_images or 0 for r in s.runs), "count"),
        ],
        [s for s in a.best(a.grid) if s.first.val_pseudo_coverage_final is not None],
    )


def _validation_in_use(setting: Setting) -> float:
    shares = ((r.val_pseudo_coverage_final or 0.0, r.val_images or 0) for r in setting.runs)
    return float(sum(share * images for share, images in shares))


def _right_on_validation(setting: Setting) -> Spread | Interval:
    known = [r.val_pseudo_accuracy_final for r in setting.runs]
    values = [value for value in known if value is not None]
    if not values:
        return Interval(None, note="not known")
    if len(values) > 1:
        return mean_over_seeds(values).clipped()
    return Interval(values[0], *wilson(values[0], _validation_in_use(setting)))


def runs(found: Sequence[Run]) -> Table:
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
            Column("Setting", lambda run: run.setting, "key"),
            Column("Method", lambda run: method_name(run.method), "key"),
            Column("Labels", lambda run: run.short_labels, "key"),
            Column("Seed", lambda run: run.seed, "key"),
            Column(ACCURACY_NAME, lambda run: run.top1, "percent"),
            Column("Validation", lambda run: run.val_top1, "percent"),
            Column("Steps", lambda run: run.steps, "count"),
            Column("Time", lambda run: run.seconds, "seconds"),
            Column("Commit", commit),
            Column("MLflow run", mlflow),
            Column("Cell id", lambda run: run.cell_id),
            Column("Folders", folders, "words"),
        ],
        found,
        folded=len(found) > _MANY,
        anchor=lambda run: f"run-{run.cell_id}",
    )
