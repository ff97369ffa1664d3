"""The headline run: its scores in full, and what its MIM branch sees."""

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
from pipeline.reporting.compare import setting_of
from pipeline.reporting.evidence import Result
from pipeline.reporting.figures import class_accuracy, confusion_matrix, picture_rows
from pipeline.reporting.study import Study, exp_run, label_options
from semimae.cell import Cell
from semimae.evaluation.metrics import Estimate, Scores

_MOST_CLASSES = 50  # more do not fit a figure
_WORST = 20
_PROTOCOLS = {
    "classifier": "Classifier: the model's own head",
    "linear_probe": "Linear probe on frozen features",
    "knn": "k-NN on frozen features",
    "fine_tune": "Fine-tuned on the labelled images",
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
            f"labelled and {count(headline.num_unlabeled)} unlabelled images), seed "
            f"{headline.cell.seed}. Intervals: 95%, Wilson over {count(scores.num_images)} test "
            "images, bootstrap for the calibration error. They do not cover the randomness of "
            f"training; the leaderboard's do. Features are pooled by `{headline.pool}`."
        ),
        _protocol_table(headline),
    ]
    if "fine_tune" not in headline.scores:
        blocks.append(Text("Fine-tuning has not run yet: `dvc repro fine_tune`.", tone="note"))
    if len(names) <= _MOST_CLASSES:
        draw = (_class_figure, _confusion_figure)
        command = headline_command(headline.cell)
        blocks.append(Figures([figure(names, scores, command) for figure in draw]))
    else:
        blocks += [_worst_classes(names, scores), _worst_pairs(names, scores)]
    return Section("headline", "Headline run", blocks)


def pictures_section(study: Study) -> Section:
    """Show originals, what the encoder saw, and reconstructions, at each mask ratio."""
    at_main = [r for s, r in study.grid.items() if s.label_fraction == study.main_fraction]
    shown = [results[0] for results in at_main if results[0].pictures]
    headline = study.evidence.headline
    grid_ids = {result.identity for result in study.evidence.grid}
    if headline and headline.pictures and headline.identity not in grid_ids:
        shown.append(headline)
    if not shown:
        words = (
            "No finished run has a MIM branch that predicts pixels, so there is nothing to show."
        )
        return Section("reconstructions", "Reconstructions", [Text(words)])
    words = (
        "Validation images: as they are, with the hidden patches in grey, and with the hidden "
        "patches predicted. First seed of each setting."
    )
    return Section(
        "reconstructions",
        "Reconstructions",
        [Text(words), Figures([_picture_figure(result) for result in shown])],
    )


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


def _class_figure(names: list[str], scores: Scores, command: str) -> Figure:
    return Figure(
        name="per_class",
        alt="Test accuracy of each class with 95% Wilson intervals.",
        caption="Accuracy of each class, classifier.",
        svg=class_accuracy(names, scores.per_class),
        table=Table(
            "Accuracy of each class.", _class_columns(), _class_rows(names, scores), folded=True
        ),
        command=command,
    )


def _confusion_figure(names: list[str], scores: Scores, command: str) -> Figure:
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
        command=command,
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


def _picture_figure(result: Result) -> Figure:
    assert result.pictures is not None
    with np.load(result.pictures) as file:
        rows = {name: file[name] for name in ("original", "masked", "reconstructed")}
    setting = setting_of(result)
    error = np.abs(rows["original"].astype(float) - rows["reconstructed"]).mean(axis=(1, 2, 3))
    table_rows: list[list[Entry]] = [[str(i + 1), f"{e:.1f}"] for i, e in enumerate(error)]
    return Figure(
        name=f"reconstructions_{setting.method}_{setting.mask_ratio:g}",
        alt=f"Images in three rows for {setting.name}: original, masked, reconstructed.",
        caption=f"{setting.name}, {result.labels}, seed {result.cell.seed}.",
        svg=picture_rows(rows),
        table=Table(
            "Mean absolute error over all pixels, in grey levels of 255.",
            number_columns("Image", "Error"),
            table_rows,
            folded=True,
        ),
        command=headline_command(result.cell),
    )
