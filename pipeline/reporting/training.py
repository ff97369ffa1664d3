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
from pipeline.reporting.figures import Curve, curves, is_share
from pipeline.reporting.headline_curves import headline_figures, thinned
from pipeline.reporting.plotting import method_look
from pipeline.reporting.pseudo_labels import pseudo_label_blocks
from pipeline.reporting.study import Study

_GRADIENT = "gradient/"
_FIGURES = {
    "learning": (
        "Validation accuracy of the averaged weights, and how far they are above the trained ones",
        {"val/top1": "top-1, %", "val/teacher_gain": "lead, points"},
    ),
    "pseudo_labels": (
        "Accuracy of the pseudo labels: of those in use, and of all whatever the threshold",
        {"pseudo/accuracy": "in use, %", "pseudo/accuracy_all": "of all, %"},
    ),
    "validation_pseudo_labels": (
        "The same on validation images: accuracy and share of the labels that would be in use",
        {"val/pseudo_accuracy": "in use, %", "val/pseudo_coverage": "coverage, %"},
    ),
    "coverage": (
        "Use of the pseudo labels: share of unlabeled images in use, and the threshold",
        {"pseudo/coverage": "coverage, %", "pseudo/threshold": "threshold, %"},
    ),
    "reconstruction": ("Reconstruction error", {"loss/reconstruction": "loss"}),
    "gradient_cosine": (
        "Agreement of the two unlabeled terms: cosine of their gradients",
        {"gradient/cosine": "cosine"},
    ),
}


def training_section(study: Study) -> Section:
    """Draw what was measured while the settings trained; one label fraction is in sight."""
    blocks: list[Block] = [
        Text(
            f"Lines: mean over seeds, each method {study.choice}. "
            "Shades: lowest to highest seed. Coverage is the share of unlabeled images whose "
            "pseudo label is used; accuracy is of those whose class is known and never trained on, "
            "weighted as they count. The cosine is above 0 where reconstruction moves the shared "
            "weights to where the pseudo labels pull them too. Gradients are those of the encoder. "
            "A line has the steps at which every seed has a value."
        )
    ]
    for fraction in sorted(study.fractions, key=lambda f: f != study.main_fraction):
        figures = [
            figure
            for name, (caption, panels) in (_FIGURES | _gradient_norms(study, fraction)).items()
            if (figure := _figure(study, fraction, name, caption, panels)) is not None
        ]
        summary = (
            "" if fraction == study.main_fraction else f"The same with {study.labels(fraction)}"
        )
        if figures:
            blocks.append(Figures(figures, summary))
        if absent := [
            title for name, (title, keys) in _FIGURES.items() if _absent(study, fraction, keys)
        ]:
            words = (
                f"Not drawn with {study.labels(fraction)}, since no step has a value of every seed"
            )
            blocks.append(Text(f"{words}: {'; '.join(absent)}."))
    if study.fractions:
        blocks += pseudo_label_blocks(study)
    headline = study.evidence.headline
    if headline:
        blocks.append(Figures(headline_figures(study, headline)))
    return Section("training", "Training", blocks if study.fractions else blocks[1:])


def _gradient_norms(study: Study, fraction: Labels) -> dict[str, tuple[str, dict[str, str]]]:
    keys = {
        key: f"|{key.removeprefix(_GRADIENT)}|"
        for setting in study.best_settings(fraction)
        for row in study.grid[setting][0].history
        for key in row
        if key.startswith(_GRADIENT) and key != "gradient/cosine"
    }
    return {"gradient_norms": ("Norm of each term's gradient, unweighted", keys)} if keys else {}


def _figure(
    study: Study, fraction: Labels, name: str, caption: str, keys: Mapping[str, str]
) -> Figure | None:
    settings = study.best_settings(fraction)
    panels = {
        label: found
        for key, label in keys.items()
        if (found := [c for s in settings if (c := _curve(study, s, key)) is not None])
    }
    if not panels:
        return None
    shown = {curve.label for panel in panels.values() for curve in panel}
    caption = f"{caption}; {study.labels(fraction)}."
    return Figure(
        name=f"{name}_{study.file_part(fraction)}",
        alt=f"{caption[:-1]}, over training steps, one line per method.",
        caption=caption,
        svg=curves(panels),
        table=_table(panels),
        command=study.command,
        sources=[study.named(s) for s in settings if s.name in shown],
    )


def _absent(study: Study, fraction: Labels, keys: Mapping[str, str]) -> bool:
    """Return whether some run has one of the metrics, but no setting a step with all seeds."""
    settings = study.best_settings(fraction)
    drawn = any(_curve(study, setting, key) for setting in settings for key in keys)
    return not drawn and any(
        key in row
        for setting in settings
        for result in study.grid[setting]
        for key in keys
        for row in _rows(result, key)
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
            step: _range(v, share=is_share(label))
            for step, v in zip(curve.steps.tolist(), curve.values.T, strict=True)
        }
        for label, curve in drawn
    ]
    rows: list[list[Entry]] = [
        [count(step), *(values.get(step, "") for values in found)]
        for step in thinned(sorted(set().union(*found)))
    ]
    return Table("Mean and range of the seeds.", number_columns("Step", *names), rows, folded=True)


def _range(values: NDArray[np.float64], *, share: bool) -> Value:
    scale, digits = (100, 1) if share else (1, 3)
    summary = (values.mean(), values.min(), values.max())
    mean, low, high = (f"{scale * value:.{digits}f}" for value in summary)
    return Value(mean, f"[{low}, {high}]" if len(values) > 1 else "")
