"""What happened during training: curves over steps, of the grid and of the headline."""

from collections.abc import Sequence
from typing import Any

from pipeline.reporting import charts, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Figure, Interval, Table, Text, table_of
from pipeline.reporting.compare import Setting, method_name
from pipeline.reporting.headline import class_names
from pipeline.reporting.runs import Row, Run
from pipeline.reporting.tables import labels_column, pseudo_labels

_MOST_STEPS = 16  # of a curve; the stage files hold every step
_MOST_CLASSES = 50
_LOSS, _SHARE, _GRADIENT = "loss/", "pseudo/class_coverage/", "gradient/"
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
    undrawn: list[str] = []
    for key, (title, value, kind) in (_CURVES | _norms(a)).items():
        rows = [row for f in a.fractions() for s in a.best(a.grid, f) for row in _rows(a, s, key)]
        if len({step for _, step, _ in rows}) > 1:
            table = _curves(a, rows, value, kind)
            chart = charts.lines("curves", table, "Step", value, charts.by_method(a.methods))
            figures.append(Figure(key.replace("/", "_"), title, chart))
        elif any(key in row for run in a.evidence.grid for row in _logged(run, key)):
            undrawn.append(title)
    means = (
        f"Lines are means over seeds, each method {words.choice_of_settings(a)}; bands reach from "
        "the lowest to the highest seed. The cosine is above 0 where reconstruction moves the "
        "shared weights to where the pseudo labels pull them too."
    )
    left_out = f"Not drawn, since no two steps have a value of every seed: {'; '.join(undrawn)}."
    return [
        Text(means if figures else ""),
        *figures,
        Text(left_out if undrawn else ""),
        pseudo_labels(a),
        *(_of_headline(a, a.evidence.headline) if a.evidence.headline else []),
    ]


def thinned(steps: Sequence[Any]) -> list[Any]:
    """Return some of the steps at even distances, the last among them."""
    stride = -(-len(steps) // _MOST_STEPS) or 1
    return list(steps[::-1][::stride][::-1])


def _norms(a: Analysis) -> dict[str, tuple[str, str, str]]:
    logged = {key for runs in a.grid.values() for row in runs[0].history for key in row}
    terms = sorted(key for key in logged if key.startswith(_GRADIENT) and key not in _CURVES)
    what = "Norm of the gradient: {} term, unweighted"
    return {key: (what.format(key.removeprefix(_GRADIENT)), "Norm", "loss") for key in terms}


def _logged(run: Run, key: str) -> list[Row]:
    return run.validation if key.startswith("val/") else run.history


def _rows(a: Analysis, setting: Setting, key: str) -> list[tuple[Setting, int, Interval]]:
    """Return the mean and the range of a metric at the steps at which all seeds have it."""
    by_step = [
        {int(row["step"]): row[key] for row in _logged(run, key) if key in row}
        for run in a.grid[setting]
    ]
    found = []
    for step in thinned(sorted(set.intersection(*map(set, by_step)))):
        values = [seed[step] for seed in by_step]
        ends = (min(values), max(values)) if len(values) > 1 else (None, None)
        found.append((setting, step, Interval(sum(values) / len(values), *ends)))
    return found


def _curves(a: Analysis, rows: Sequence[Any], value: str, kind: str) -> Table:
    return Table(
        "Means over seeds, with the lowest and the highest.",
        [
            labels_column(a),
            Column("Setting", lambda row: row[0].name),
            Column("Method", lambda row: method_name(row[0].method), "key"),
            Column("Step", lambda row: row[1], "count"),
            Column(value, lambda row: row[2], kind),
        ],
        rows,
    )


def _of_headline(a: Analysis, run: Run) -> list[Block]:
    blocks: list[Block] = []
    if len(run.history) > 1:
        losses = [
            {"Term": name.removeprefix(_LOSS), "Step": int(row["step"]), "Loss": row[name]}
            for name in sorted({key for row in run.history for key in row if key.startswith(_LOSS)})
            for row in thinned([row for row in run.history if name in row])
        ]
        kinds = {"Term": "text", "Step": "count", "Loss": "loss"}
        table = table_of("Loss terms.", kinds, losses)
        title = "Loss terms of the headline run, unweighted; total is the weighted sum"
        chart = charts.lines("losses", table, "Step", "Loss", charts.BY_TERM)
        blocks.append(Figure("losses", title, chart))
    rows = thinned([row for row in run.history if f"{_SHARE}0" in row])
    classes = class_names(a, len(run.scores["classifier"].per_class))
    if len(rows) > 1 and len(classes) <= _MOST_CLASSES:
        shares = [
            {"Class": name, "Step": int(row["step"]), "Share": row[f"{_SHARE}{i}"]}
            for i, name in enumerate(classes)
            for row in rows
        ]
        kinds = {"Class": "text", "Step": "count", "Share": "percent"}
        table = table_of("Share of all unlabeled images.", kinds, shares)
        title = "Pseudo labels in use by class, in the headline run: shares of all unlabeled images"
        chart = charts.shades("shares", table, "Step", "Class")
        blocks.append(Figure("class_coverage", title, chart))
    return blocks
