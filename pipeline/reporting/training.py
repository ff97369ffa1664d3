"""What happened during training: curves over steps."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.reporting.blocks import (
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
)
from pipeline.reporting.compare import Labels, Setting
from pipeline.reporting.evidence import Result, Row
from pipeline.reporting.figures import Curve, curves, lines
from pipeline.reporting.headline import headline_command
from pipeline.reporting.plotting import method_look
from pipeline.reporting.study import Study

_MAX_ROWS = 16  # of a folded table; the stage files hold every step
_LOSS = "loss/"
_PANELS = {
    "learning": {"val/top1": "validation top-1, %"},
    "pseudo_labels": {"pseudo/accuracy": "accuracy, %", "pseudo/coverage": "coverage, %"},
    "gradient_cosine": {"gradient/cosine": "cosine"},
}
_CAPTIONS = {
    "learning": "Validation accuracy of the averaged weights",
    "pseudo_labels": "Accuracy and coverage of the pseudo labels",
    "gradient_cosine": "Agreement of the two unlabelled terms: cosine of their gradients",
}


def training_section(study: Study) -> Section:
    """Draw validation accuracy, the pseudo labels' quality and use, and the headline's losses."""
    blocks: list[Block] = []
    figures = [
        figure
        for name, keys in _PANELS.items()
        for fraction in study.fractions
        if (figure := _figure(study, fraction, name, keys)) is not None
    ]
    if figures:
        blocks += [
            Text(
                "Lines: mean over seeds, each method at the mask ratio that validation prefers. "
                "Shades: lowest to highest seed. Coverage is the share of unlabelled images whose "
                "pseudo label is used; accuracy is of those, where the hidden label is known."
            ),
        ]
    if study.evidence.headline:
        figures.append(_losses(study.evidence.headline))
    if figures:
        blocks.append(Figures(figures))
    return Section("training", "Training", blocks)


def _figure(study: Study, fraction: Labels, name: str, keys: Mapping[str, str]) -> Figure | None:
    settings = study.best_settings(fraction)
    panels = {
        label: found
        for key, label in keys.items()
        if (found := [c for s in settings if (c := _curve(study, s, key)) is not None])
    }
    if not panels:
        return None
    caption = f"{_CAPTIONS[name]}, {study.labels(fraction)}."
    return Figure(
        name=f"{name}_{study.file_part(fraction)}",
        alt=f"{caption[:-1]}, over training steps, one line per method.",
        caption=caption,
        svg=curves(panels),
        table=_table(panels),
        command=study.command,
    )


def _curve(study: Study, setting: Setting, key: str) -> Curve | None:
    """Return a metric at the steps at which all seeds have it."""
    by_step = [
        {row["step"]: row[key] for row in _rows(result, key) if key in row}
        for result in study.grid[setting]
    ]
    steps = sorted(set.intersection(*(set(values) for values in by_step)))
    if not steps:
        return None
    values = np.array([[seed[step] for step in steps] for seed in by_step])
    return Curve(
        setting.name, method_look(study.methods, setting.method)[0], np.array(steps), values
    )


def _rows(result: Result, key: str) -> list[Row]:
    return result.validation if key.startswith("val/") else result.history


def _table(panels: Mapping[str, Sequence[Curve]]) -> Table:
    drawn = [(label, curve) for label, panel in panels.items() for curve in panel]
    names = [
        curve.label if len(panels) == 1 else f"{curve.label}: {label}" for label, curve in drawn
    ]
    found = [
        {
            step: _range(v, percent=label.endswith("%"))
            for step, v in zip(curve.steps.tolist(), curve.values.T, strict=True)
        }
        for label, curve in drawn
    ]
    rows: list[list[Entry]] = [
        [count(step), *(values.get(step, "") for values in found)]
        for step in _thinned(sorted(set().union(*found)))
    ]
    return Table("Mean and range of the seeds.", number_columns("Step", *names), rows, folded=True)


def _range(values: NDArray[np.float64], *, percent: bool) -> Value:
    scale, digits = (100, 1) if percent else (1, 3)
    summary = (values.mean(), values.min(), values.max())
    mean, low, high = (f"{scale * value:.{digits}f}" for value in summary)
    return Value(mean, f"[{low}, {high}]" if len(values) > 1 else "")


def _losses(headline: Result) -> Figure:
    rows = headline.history
    names = sorted({key for row in rows for key in row if key.startswith(_LOSS)})
    names.sort(key=lambda name: name != f"{_LOSS}total")
    steps = _thinned([row["step"] for row in rows])
    by_step = {row["step"]: row for row in rows}
    return Figure(
        name="losses",
        alt="Loss terms of the headline run over training steps.",
        caption="Loss terms of the headline run, unweighted; total is the weighted sum.",
        svg=lines(
            {
                name.removeprefix(_LOSS): (
                    [row["step"] for row in rows if name in row],
                    [row[name] for row in rows if name in row],
                )
                for name in names
            },
            "loss",
        ),
        table=Table(
            "Loss terms.",
            number_columns("Step", *(name.removeprefix(_LOSS) for name in names)),
            [
                [count(s), *(f"{by_step[s][n]:.3f}" if n in by_step[s] else "" for n in names)]
                for s in steps
            ],
            folded=True,
        ),
        command=headline_command(headline.cell),
    )


def _thinned(steps: Sequence[float]) -> list[float]:
    """Return at most ``_MAX_ROWS`` of the steps, the last among them."""
    stride = -(-len(steps) // _MAX_ROWS)
    return list(steps[::-1][::stride][::-1])
