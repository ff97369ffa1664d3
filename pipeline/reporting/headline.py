"""The headline run: its scores in full, its probabilities, and what it does with images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.reporting import charts
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import (
    Block,
    Column,
    Figure,
    Link,
    Section,
    Table,
    Text,
    count,
    percent,
)
from pipeline.reporting.choice import judges
from pipeline.reporting.compare import labels_of, setting_of
from pipeline.reporting.rerun import headline_command
from pipeline.reporting.runs import Details, Run
from pipeline.reporting.words import interval
from semimae.evaluation.metrics import Estimate, Scores, proportion

_MOST_CLASSES = 50  # more do not fit a figure
_WORST = 20
_ABSTAIN = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
_PROTOCOLS = {
    "classifier": "Classifier: the model's own head",
    "calibrated": "Classifier, its probabilities calibrated",
    "linear_probe": "Linear probe on frozen features",
    "knn": "k-NN on frozen features",
    "batch_norm_probe": "Linear probe with batch norm, trained by gradient descent",
    "attentive_probe": "Attentive probe on frozen patch tokens",
    "fine_tune": "Fine-tuned on the labeled images",
}


def class_names(a: Analysis, num_classes: int) -> list[str]:
    """Return the classes' names, or their numbers if the dataset is not there."""
    dataset = a.evidence.dataset
    return list(dataset.class_names) if dataset else [str(i) for i in range(num_classes)]


def headline_section(a: Analysis) -> Section:
    """Show every protocol's scores, accuracy per class, confusion and calibration."""
    headline = a.evidence.headline
    if headline is None:
        words = "The headline run that params.yaml asks for is not finished; `dvc repro` makes it."
        return Section("headline", "Headline run", [Text(words, tone="note")])
    details: Details = headline.details
    scores = details.scores["classifier"]
    names = class_names(a, len(scores.per_class))
    link = Link("Its folder, commit and MLflow run", f"#{headline.anchor}")
    blocks: list[Block] = [
        Text(
            f"{setting_of(headline).name}, {labels_of(headline)} ({count(headline.num_labeled)} "
            f"labeled and {count(details.num_unlabeled)} unlabeled images), seed {headline.seed}. "
            "Intervals are 95%: Wilson over "
            f"{count(scores.num_images)} test images, bootstrap for the calibration error. They do "
            "not cover the randomness of training; those of the leaderboard do. Features are "
            f"pooled by `{details.pool}`. To train it again: `{headline_command(details.cell)}`.",
            link=link,
        ),
        _protocols(details),
    ]
    if "fine_tune" not in details.scores:
        blocks.append(Text("Fine-tuning has not run yet: `dvc repro fine_tune`.", tone="note"))
    blocks += [Text(_calibration(headline)), *_reliability(details), _coverage(details)]
    blocks += [_classes(names, scores), _confusion(names, scores)]
    return Section("headline", "Headline run", blocks)


def _protocols(details: Details) -> Table:
    def of(name: str) -> Any:
        return lambda protocol: getattr(details.scores[protocol], name)

    return Table(
        "Test scores. ECE is the expected calibration error over 15 bins, NLL the negative "
        "log-likelihood.",
        [
            Column("Protocol", _PROTOCOLS.get),
            Column("Top-1", of("top1"), "percent"),
            Column("Top-5", of("top5"), "percent"),
            Column("ECE", of("ece"), "percent"),
            Column("NLL", of("nll"), "loss"),
        ],
        [name for name in _PROTOCOLS if name in details.scores],
    )


def _calibration(headline: Run) -> str:
    def error(ece: Estimate) -> str:
        return f"{percent(ece.value)}% {interval(ece.low, ece.high)}"

    details: Details = headline.details
    images = judges(headline)
    before = error(details.scores["classifier"].ece)
    if details.temperature is None:
        from semimae.calibration import MIN_IMAGES  # loads torch, which takes seconds

        return (
            f"The probabilities are the network's own, since {images} are too few to fit a "
            f"temperature (at least {MIN_IMAGES} are needed). Their expected calibration error is "
            f"{before}."
        )
    return (
        f"The probabilities are calibrated by a temperature of {details.temperature:.2f}, which is "
        f"fitted on {images} and stored with the model. It changes the expected calibration error "
        f"from {before} to {error(details.scores['calibrated'].ece)}."
    )


def _reliability(details: Details) -> list[Block]:
    bins = details.scores.get("calibrated", details.scores["classifier"]).calibration
    width = 100 / len(bins)

    table = Table(
        "Test images by confidence, with the means of each bin.",
        [
            Column("From, to (%)", lambda i: f"{i * width:.0f} to {(i + 1) * width:.0f}"),
            Column("Images", lambda i: bins[i].num_images, "count"),
            Column("Confidence", lambda i: bins[i].confidence, "percent"),
            Column("Accuracy", lambda i: bins[i].accuracy, "percent"),
        ],
        [i for i, b in enumerate(bins) if b.num_images],
    )
    if sum(b.num_images > 0 for b in bins) < 2:
        return [table]
    title = "Calibration: accuracy over confidence. Points below the diagonal are overconfident."
    alt = "Test accuracy of the classifier over its confidence, beside the diagonal."
    return [Figure("calibration", title, alt, charts.reliability(), {"bins": table})]


def _coverage(details: Details) -> Figure:
    confidence, right = details.predictions["test_confidence"], details.right("test")
    kept = {threshold: right[confidence >= threshold] for threshold in _ABSTAIN}
    table = Table(
        "Test images whose probability reaches a threshold of `predict --abstain`, with 95% Wilson "
        "intervals.",
        [
            Column("Confidence", lambda threshold: threshold, "percent"),
            Column("Coverage", lambda threshold: len(kept[threshold]) / len(right), "percent"),
            Column("Accuracy", lambda t: proportion(int(kept[t].sum()), len(kept[t])), "percent"),
        ],
        [threshold for threshold in _ABSTAIN if len(kept[threshold])],
    )
    return Figure(
        "accuracy_over_coverage",
        "Accuracy over coverage: what `predict --abstain` gains, and which share it leaves",
        "Test accuracy of the most confident images over their share.",
        charts.coverage(),
        {"coverage": table},
    )


def _classes(names: Sequence[str], scores: Scores) -> Figure | Table:
    order = list(range(len(names)))
    columns = [
        Column("Class", lambda i: names[i]),
        Column("Accuracy", lambda i: scores.per_class[i], "percent"),
        Column("Test images", lambda i: sum(scores.confusion[i]), "count"),
    ]
    if len(names) > _MOST_CLASSES:
        order.sort(key=lambda i: scores.per_class[i].value)
        caption = f"The {_WORST} classes of lowest accuracy, of {len(names)}."
        return Table(caption, columns, order[:_WORST])
    table, alt = Table("Accuracy of each class.", columns, order), "Test accuracy of each class."
    chart = charts.per_class("Accuracy")
    return Figure("per_class", "Accuracy of each class", alt, chart, {"classes": table})


def _confusion(names: Sequence[str], scores: Scores) -> Figure | Table:
    counts = np.array(scores.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    columns = [
        Column("True class", lambda pair: names[pair[0]]),
        Column("Predicted class", lambda pair: names[pair[1]]),
        Column("Images", lambda pair: int(counts[pair]), "count"),
        Column("Share", lambda pair: float(share[pair]), "percent"),
    ]
    cells = list(np.ndindex(*counts.shape))
    if len(names) > _MOST_CLASSES:
        wrong = [(i, j) for i, j in cells if i != j and counts[i, j]]
        wrong.sort(key=lambda pair: -counts[pair])
        return Table("The pairs of classes that are confused most often.", columns, wrong[:_WORST])
    tips = {"True class": "", "Predicted class": "", "Images": "count", "Share": "percent"}
    text = "Images" if len(names) <= 20 else ""
    chart = charts.shades("pairs", "Predicted class", "True class", "Share", tips, text=text)
    title = "Confusion matrix, counts of test images. Click on a cell to see its images below."
    alt = "Confusion matrix of the classifier on the test set; the shade is the share of the class."
    return Figure("confusion", title, alt, chart, {"pairs": Table("Test images.", columns, cells)})
