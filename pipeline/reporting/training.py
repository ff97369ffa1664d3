"""What happened during training: curves over steps."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from pipeline.reporting import words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Interval, Table, Text
from pipeline.reporting.charts import Chart
from pipeline.reporting.compare import Setting
from pipeline.reporting.runs import method_name
from pipeline.reporting.tables import labels_column, pseudo_labels

_MOST_STEPS = 16  # of a curve; the stage files hold every step
_CURVES = {
    "val/top1": ("Validation accuracy of the averaged weights", "Top-1", "percent"),
    "val/teacher_gain": ("Lead of the averaged weights over the trained ones", "Lead", "points"),
    "pseudo/accuracy": ("Pseudo labels in use that are right", "Right", "percent"),
    "pseudo/accuracy_all": ("All pseudo labels that are right, used or not", "Right", "percent"),
    "val/pseudo_accuracy": ("The same on validation images, in use", "Right", "percent"),
    "val/pseudo_coverage": ("Validation images that would be in use", "Share", "percent"),
    "pseudo/coverage": ("Unlabeled images whose pseudo label is in use", "Share", "percent"),
    "pseudo/threshold": ("Threshold of the pseudo labels", "Threshold", "percent"),
    "loss/reconstruction": ("Reconstruction error", "Loss", "loss"),
    "gradient/cosine": ("Cosine of the gradients of the two unlabeled terms", "Cosine", "loss"),
}


def training(a: Analysis) -> list[Block]:
    """Draw what was measured while the settings trained."""
    figures: list[Block] = []
    for key, (title, value, kind) in _CURVES.items():
        rows = [row for setting in a.best(a.grid) for row in _rows(setting, key)]
        if len({step for _, step, _ in rows}) > 1 and len({each.value for *_, each in rows}) > 1:
            table = _curves(a, rows, value, kind)
            chart = Chart(key.replace("/", "_"), title, table, a.methods)
            figures.append(chart.curves("Step", value))
    text = (
        f"Lines are means over seeds, each method {words.choice_of_settings(a)}; bands reach from "
        "the lowest to the highest seed. What never changes is not drawn. The cosine is above 0 "
        "where reconstruction and pseudo labels pull the shared weights in the same direction. "
        "MLflow shows everything that was logged, such as each term of the loss."
    )
    return [Text(text if figures else ""), *figures, pseudo_labels(a)]


def _rows(setting: Setting, key: str) -> list[tuple[Setting, int, Interval]]:
    """Return the mean and the range of a metric at the steps at which all seeds have it."""
    logged = (run.validation if key.startswith("val/") else run.history for run in setting.runs)
    by_step = [{int(row["step"]): row[key] for row in rows if key in row} for rows in logged]
    steps = sorted(set.intersection(*map(set, by_step)), reverse=True)
    found = []
    for step in steps[:: -(-len(steps) // _MOST_STEPS) or 1][::-1]:
        values = [seed[step] for seed in by_step]
        ends = (min(values), max(values)) if len(values) > 1 else (None, None)
        found.append((setting, step, Interval(sum(values) / len(values), *ends)))
    return found


def _curves(a: Analysis, rows: Sequence[Any], value: str, kind: str) -> Table:
    return Table(
        "Means over seeds, with the lowest and the highest.",
        [
            labels_column(a, itemgetter(0)),
            Column("Setting", lambda row: row[0].name),
            Column("Method", lambda row: method_name(row[0].method), "key"),
            Column("Step", itemgetter(1), "count"),
            Column(value, itemgetter(2), kind),
        ],
        rows,
    )
