"""The headline run: its scores in full."""

import numpy as np

from pipeline.reporting.blocks import (
    NONE,
    Block,
    Column,
    Entry,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    Value,
    count,
    interval,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.class_figures import class_accuracy, confusion_matrix
from pipeline.reporting.compare import setting_of
from pipeline.reporting.confidence import calibration_text, confidence_figures
from pipeline.reporting.evidence import Result
from pipeline.reporting.runs import run_link
from pipeline.reporting.study import Study, exp_run, label_options
from semimae.evaluation.metrics import Estimate, Scores
from semimae.options.cell import Cell

_MOST_CLASSES = 50  # more do not fit a figure
_WORST = 20
_PROTOCOLS = {
    "classifier": "Classifier: the model's own head",
    "calibrated": "Classifier, its probabilities calibrated",
    "linear_probe": "Linear probe on frozen features",
    "knn": "k-NN on frozen features",
    "fine_tune": "Fine-tuned on the labeled images",
}


def headline_command(cell: Cell) -> str:
    """Return the command that makes a headline run again, whatever params.yaml says by then."""
    ratio = [] if cell.mask_ratio is None else [f"mask_ratio={cell.mask_ratio}"]
    values = [f"method={cell.method}", *ratio, *label_options(cell), f"seed={cell.seed}"]
    return exp_run(values)


def headline_section(study: Study) -> Section:
    """Show every protocol's scores, accuracy per class, confusion and calibration."""
    headline = study.evidence.headline
    if headline is None:
        words = "The headline run that params.yaml asks for is not finished. `dvc repro` makes it."
        return Section("headline", "Headline run", [Text(words, tone="note")])
    setting = setting_of(headline)
    scores = headline.scores["classifier"]
    names = class_names(study, len(scores.per_class))
    blocks: list[Block] = [
        Text(
            f"{setting.name}, {headline.labels} ({count(headline.num_labeled)} "
            f"labeled and {count(headline.num_unlabeled)} unlabeled images), seed "
            f"{headline.cell.seed}. Intervals: 95%, Wilson over {count(scores.num_images)} test "
            "images, bootstrap for the calibration error. They do not cover the randomness of "
            f"training; the leaderboard's do. Features are pooled by `{headline.pool}`.",
            link=(f"#{headline.anchor}", "Its folder, commit and MLflow run"),
        ),
        _protocol_table(headline),
    ]
    if "fine_tune" not in headline.scores:
        blocks.append(Text("Fine-tuning has not run yet: `dvc repro fine_tune`.", tone="note"))
    blocks.append(calibration_text(headline))
    figures = confidence_figures(headline, headline_command(headline.cell))
    if len(names) <= _MOST_CLASSES:
        figures += [draw(names, headline) for draw in (_class_figure, _confusion_figure)]
    blocks.append(Figures(figures))
    if len(names) > _MOST_CLASSES:
        blocks += [_worst_classes(names, scores), _worst_pairs(names, scores)]
    return Section("headline", "Headline run", blocks)


def class_names(study: Study, num_classes: int) -> list[str]:
    """Return the classes' names, or their numbers if the dataset is not there."""
    dataset = study.evidence.dataset
    return list(dataset.class_names) if dataset else [str(i) for i in range(num_classes)]


def estimate(value: Estimate | None) -> Value:
    """Return a proportion in percent with its interval."""
    if value is None:
        return Value(NONE)
    return Value(percent(value.value), interval(value.low, value.high))


def _protocol_table(headline: Result) -> Table:
    rows: list[list[Entry]] = [
        [
            label,
            estimate(scores.top1),
            estimate(scores.top5),
            estimate(scores.ece),
            f"{scores.nll:.3f}",
        ]
        for name, label in _PROTOCOLS.items()
        if (scores := headline.scores.get(name))
    ]
    return Table(
        "Test scores. ECE: expected calibration error, 15 bins. NLL: negative log-likelihood.",
        [*text_columns("Protocol"), *number_columns("Top-1 %", "Top-5 %", "ECE %", "NLL")],
        rows,
    )


def _class_rows(names: list[str], scores: Scores) -> list[list[Entry]]:
    images = [sum(row) for row in scores.confusion]
    return [
        [name, estimate(value), count(n)]
        for name, value, n in zip(names, scores.per_class, images, strict=True)
    ]


def _class_columns() -> list[Column]:
    return [*text_columns("Class"), *number_columns("Accuracy %", "Test images")]


def _class_figure(names: list[str], headline: Result) -> Figure:
    scores = headline.scores["classifier"]
    return Figure(
        name="per_class",
        alt="Test accuracy of each class with 95% Wilson intervals.",
        caption="Accuracy of each class, classifier.",
        svg=class_accuracy(names, scores.per_class),
        table=Table(
            "Accuracy of each class.", _class_columns(), _class_rows(names, scores), folded=True
        ),
        command=headline_command(headline.cell),
        sources=[run_link(headline)],
    )


def _confusion_figure(names: list[str], headline: Result) -> Figure:
    scores = headline.scores["classifier"]
    rows: list[list[Entry]] = [
        [name, *map(str, row)] for name, row in zip(names, scores.confusion, strict=True)
    ]
    columns = [*text_columns("True \\ predicted"), *number_columns(*names)]
    return Figure(
        name="confusion",
        alt="Confusion matrix of the classifier on the test set.",
        caption="Confusion matrix, classifier: counts; shade is the share of the true class.",
        svg=confusion_matrix(names, np.array(scores.confusion)),
        table=Table("Counts.", columns, rows, folded=True),
        command=headline_command(headline.cell),
        sources=[run_link(headline)],
    )


def _worst_classes(names: list[str], scores: Scores) -> Table:
    rows = _class_rows(names, scores)
    order = sorted(range(len(names)), key=lambda i: scores.per_class[i].value)
    return Table(
        f"The {_WORST} classes of lowest accuracy, of {len(names)}.",
        _class_columns(),
        [rows[i] for i in order[:_WORST]],
    )


def _worst_pairs(names: list[str], scores: Scores) -> Table:
    counts = np.array(scores.confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_WORST]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    rows: list[list[Entry]] = [
        [names[i], names[j], count(counts[i, j]), count(sum(scores.confusion[i]))]
        for i, j in pairs
        if counts[i, j]
    ]
    return Table(
        "The pairs of classes that are confused most often.",
        [*text_columns("True class", "Taken for"), *number_columns("Images", "Of")],
        rows,
    )
