"""What happened during the training of the headline run alone."""

from collections.abc import Sequence

import numpy as np

from pipeline.reporting.blocks import (
    Entry,
    Figure,
    Table,
    count,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.class_figures import class_shares
from pipeline.reporting.evidence import Result
from pipeline.reporting.figures import lines
from pipeline.reporting.headline import class_names, headline_command
from pipeline.reporting.runs import run_link
from pipeline.reporting.study import Study

_MAX_ROWS = 16  # of a folded table; the stage files hold every step
_LOSS, _SHARE = "loss/", "pseudo/class_coverage/"


def headline_figures(study: Study, headline: Result) -> list[Figure]:
    """Draw the loss terms, and how the pseudo labels in use are spread over the classes."""
    shares = any(key.startswith(_SHARE) for row in headline.history for key in row)
    return [_losses(headline), *([_class_coverage(study, headline)] if shares else [])]


def thinned(steps: Sequence[float]) -> list[float]:
    """Return at most ``_MAX_ROWS`` of the steps, the last among them."""
    stride = -(-len(steps) // _MAX_ROWS)
    return list(steps[::-1][::stride][::-1])


def _losses(headline: Result) -> Figure:
    rows = headline.history
    names = sorted({key for row in rows for key in row if key.startswith(_LOSS)})
    names.sort(key=lambda name: name != f"{_LOSS}total")
    steps = thinned([row["step"] for row in rows])
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
        sources=[run_link(headline)],
    )


def _class_coverage(study: Study, headline: Result) -> Figure:
    names = class_names(study, len(headline.scores["classifier"].per_class))
    rows = [row for row in headline.history if f"{_SHARE}0" in row]
    steps = np.array([row["step"] for row in rows])
    shares = np.array([[row[f"{_SHARE}{i}"] for row in rows] for i in range(len(names))])
    shown = [list(steps).index(step) for step in thinned(list(steps))]
    table_rows: list[list[Entry]] = [
        [name, *(percent(shares[i, j]) for j in shown)] for i, name in enumerate(names)
    ]
    return Figure(
        name="class_coverage",
        alt="Coverage of each class by the headline's pseudo labels over steps, as shades.",
        caption=(
            "Coverage of each class in the headline run: share of all unlabeled images that are "
            f"in use as that class. Darkest: {percent(shares.max())}%."
        ),
        svg=class_shares(names, steps, shares),
        table=Table(
            "Share of the unlabeled images in %, by step.",
            [*text_columns("Class"), *number_columns(*(count(steps[j]) for j in shown))],
            table_rows,
            folded=True,
        ),
        command=headline_command(headline.cell),
        sources=[run_link(headline)],
    )
