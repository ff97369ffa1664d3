"""The headline run: its scores in full, its probabilities, and what it does with images."""

from collections.abc import Sequence
from typing import Any

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Link, Text, table_of
from pipeline.reporting.charts import NO_TEXT, SHARES, Chart
from pipeline.reporting.formats import count, limits, percent
from pipeline.reporting.runs import Run
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


def headline(a: Analysis) -> list[Block]:
    """Show every protocol's scores, what confidence says, accuracy per class and confusion."""
    run = a.evidence.headline
    if run is None:
        words = "The headline run that params.yaml asks for is not finished; run `dvc repro`."
        return [Text(words, "note")]
    scores = run.scores["classifier"]
    names = class_names(a, len(scores.per_class))
    tuned = "" if "fine_tune" in run.scores else "Not fine-tuned yet; run `dvc repro fine_tune`."
    about = (
        f"{run.setting}, {run.labels} ({count(run.num_labeled)} labeled and "
        f"{count(run.num_unlabeled or 0)} unlabeled images), seed {run.seed}. Intervals are 95%: "
        f"Wilson over {count(scores.num_images)} test images, bootstrap for the calibration error. "
        "They do not cover the randomness of training; those of the leaderboard do. Features are "
        f"pooled by `{run.pool}`."
    )
    numbers = {"Top-1": "percent", "Top-5": "percent", "ECE": "percent", "NLL": "loss"}
    return [
        Text(about, link=Link("Its folder, commit and MLflow run", f"#run-{run.cell_id}")),
        table_of(
            "Test scores. ECE is the expected calibration error over 15 bins, NLL the negative "
            "log-likelihood.",
            {"Protocol": "text"} | numbers,
            [
                (title, s.top1, s.top5, s.ece, s.nll)
                for name, title in _PROTOCOLS.items()
                if (s := run.scores.get(name)) is not None
            ],
        ),
        Text(tuned, "note"),
        Text(_calibration(run)),
        _coverage(run),
        _classes(names, scores),
        _confusion(names, scores),
    ]


def _calibration(run: Run) -> str:
    def error(ece: Estimate) -> str:
        return f"{percent(ece.value)}% {limits(ece.low, ece.high)}"

    before = error(run.scores["classifier"].ece)
    if run.temperature is None:
        from semimae.calibration import MIN_IMAGES  # loads torch, which takes seconds

        return (
            f"The probabilities are the network's own, since {run.held_out} are too few to fit a "
            f"temperature (at least {MIN_IMAGES} are needed). Their expected calibration error is "
            f"{before}."
        )
    return (
        f"The probabilities are calibrated by a temperature of {run.temperature:.2f}, which is "
        f"stored with the model and was fitted on {run.held_out}. It changes the expected "
        f"calibration error from {before} to {error(run.scores['calibrated'].ece)}."
    )


def _coverage(run: Run) -> Block:
    confidence, right = run.predictions["test_confidence"], run.right("test")
    kept = {threshold: right[confidence >= threshold] for threshold in _ABSTAIN}
    table = table_of(
        "Test images whose probability reaches a threshold of `predict --abstain`, with 95% Wilson "
        "intervals.",
        dict.fromkeys(("Confidence", "Coverage", "Accuracy"), "percent"),
        [
            (threshold, len(found) / len(right), proportion(int(found.sum()), len(found)))
            for threshold, found in kept.items()
            if len(found)
        ],
    )
    title = "Accuracy of the predictions that `predict --abstain` keeps, over the share it keeps"
    return Chart("accuracy_over_coverage", title, table).curves("Coverage", "Accuracy")


def _classes(names: Sequence[str], scores: Scores) -> Block:
    kinds = {"Class": "text", "Accuracy": "percent", "Test images": "count"}
    rows = list(zip(names, scores.per_class, map(sum, scores.confusion), strict=True))
    if len(names) > _MOST_CLASSES:
        rows.sort(key=lambda row: row[1].value)
        caption = f"The {_WORST} classes of lowest accuracy, of {len(names)}."
        return table_of(caption, kinds, rows[:_WORST])
    title = "Accuracy of each class"
    table = table_of(f"{title}.", kinds, rows)
    return Chart("per_class", title, table).rows("Accuracy", by="Class")


def _confusion(names: Sequence[str], scores: Scores) -> Block:
    kinds = {"True class": "text", "Predicted class": "text", "Images": "count", "Share": "percent"}
    rows: list[tuple[Any, ...]] = [
        (true, predicted, images, images / max(sum(row), 1))
        for true, row in zip(names, scores.confusion, strict=True)
        for predicted, images in zip(names, row, strict=True)
    ]
    if len(names) > _MOST_CLASSES:
        wrong = sorted((r for r in rows if r[2] and r[0] != r[1]), key=lambda row: -row[2])
        return table_of("The pairs of classes that are confused most often.", kinds, wrong[:_WORST])
    text = "datum.Images > 0 ? datum.Images : ''" if len(names) <= _WORST else NO_TEXT
    title = "Confusion matrix, counts of test images. Click on a cell to see its images below."
    cells = ("True class", "Predicted class", "Share")
    chart = Chart("confusion", title, table_of("Test images.", kinds, rows))
    return chart.matrix(cells, SHARES, text)
