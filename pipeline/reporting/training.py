"""What happened during training: curves over steps, of the grid and of the headline."""

from collections.abc import Sequence
from typing import Any

from pipeline.reporting import charts, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Figure, Interval, Section, Table, Text
from pipeline.reporting.compare import Labels, Setting, method_name
from pipeline.reporting.headline import class_names
from pipeline.reporting.runs import Row, Run
from pipeline.reporting.tables import labels_column, pseudo_labels

_MOST_STEPS = 16  # of a curve; the stage files hold every step
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


def training_section(a: Analysis) -> Section:
    """Draw what was measured while the settings trained."""
    figures: list[Block] = []
    undrawn: list[str] = []
    for key, (title, value, kind) in (_CURVES | _norms(a)).items():
        rows = [row for f in a.fractions() for row in _rows(a, f, key)]
        if len({row[1] for row in rows}) > 1:
            figures.append(_curve(a, key, title, value, kind, rows))
        elif any(key in row for run in a.evidence.grid for row in _logged(run, key)):
            undrawn.append(title)
    blocks: list[Block] = []
    if figures:
        blocks.append(
            Text(
                f"Lines are means over seeds, each method {words.choice_of_settings(a)}; bands "
                "reach from the lowest to the highest seed. The cosine is above 0 where "
                "reconstruction moves the shared weights to where the pseudo labels pull them too."
            )
        )
    blocks += figures
    if undrawn:
        listed = "; ".join(undrawn)
        blocks.append(Text(f"Not drawn, since no two steps have a value of every seed: {listed}."))
    table = pseudo_labels(a)
    if table.rows:
        blocks.append(table)
    if a.evidence.headline:
        blocks += _headline_figures(a, a.evidence.headline)
    return Section("training", "Training", blocks)


def thinned(steps: Sequence[Any]) -> list[Any]:
    """Return some of the steps at even distances, the last among them."""
    stride = -(-len(steps) // _MOST_STEPS) or 1
    return list(steps[::-1][::stride][::-1])


def _norms(a: Analysis) -> dict[str, tuple[str, str, str]]:
    keys = {
        key: (
            f"Norm of the gradient: {key.removeprefix(_GRADIENT)} term, unweighted",
            "Norm",
            "loss",
        )
        for runs in a.grid.values()
        for row in runs[0].details.history
        for key in row
        if key.startswith(_GRADIENT) and key != "gradient/cosine"
    }
    return dict(sorted(keys.items()))


def _logged(run: Run, key: str) -> list[Row]:
    found: list[Row] = run.details.validation if key.startswith("val/") else run.details.history
    return found


def _rows(a: Analysis, fraction: Labels, key: str) -> list[tuple[Setting, int, Interval]]:
    """Return the mean and the range of a metric at the steps at which all seeds have it."""
    found = []
    for setting in a.best(a.grid, fraction):
        by_step = [
            {int(row["step"]): row[key] for row in _logged(run, key) if key in row}
            for run in a.grid[setting]
        ]
        for step in thinned(sorted(set.intersection(*map(set, by_step)))):
            values = [seed[step] for seed in by_step]
            ends = (min(values), max(values)) if len(values) > 1 else (None, None)
            found.append((setting, step, Interval(sum(values) / len(values), *ends)))
    return found


def _curve(a: Analysis, key: str, title: str, value: str, kind: str, rows: Sequence[Any]) -> Figure:
    table = Table(
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
    alt = f"{title}, over training steps, one line per method."
    chart = charts.curves(charts.color(a.methods), value, kind)
    return Figure(key.replace("/", "_"), title, alt, chart, {"curves": table})


def _headline_figures(a: Analysis, headline: Run) -> list[Block]:
    history: list[Row] = headline.details.history
    names = sorted({key for row in history for key in row if key.startswith(_LOSS)})
    losses = Table(
        "Loss terms.",
        [
            Column("Term", lambda row: row[0].removeprefix(_LOSS)),
            Column("Step", lambda row: int(row[1]["step"]), "count"),
            Column("Loss", lambda row: row[1][row[0]], "loss"),
        ],
        [(n, row) for n in names for row in thinned([row for row in history if n in row])],
    )
    blocks: list[Block] = []
    if len(history) > 1:
        title = "Loss terms of the headline run, unweighted; total is the weighted sum"
        alt = "Loss terms of the headline run over training steps."
        blocks.append(Figure("losses", title, alt, charts.terms("Loss"), {"losses": losses}))
    rows = thinned([row for row in history if f"{_SHARE}0" in row])
    classes = class_names(a, len(headline.details.scores["classifier"].per_class))
    if len(rows) > 1 and len(classes) <= 50:
        shares = Table(
            "Share of all unlabeled images.",
            [
                Column("Class", lambda pair: classes[pair[0]]),
                Column("Step", lambda pair: int(pair[1]["step"]), "count"),
                Column("Share", lambda pair: pair[1][f"{_SHARE}{pair[0]}"], "percent"),
            ],
            [(i, row) for i in range(len(classes)) for row in rows],
        )
        title = "Pseudo labels in use by class, in the headline run: shares of all unlabeled images"
        alt = "Share of the unlabeled images in use as each class, over steps, as shades."
        tips = {"Class": "", "Step": "count", "Share": "percent"}
        chart = charts.shades("shares", "Step", "Class", "Share", tips)
        blocks.append(Figure("class_coverage", title, alt, chart, {"shares": shares}))
    return blocks
