"""The headline run: its scores in full, its probabilities, and what it does with images."""

from collections.abc import Sequence
from typing import Any

from pipeline.reporting import charts
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Figure, Link, Text, table_of
from pipeline.reporting.choice import judges
from pipeline.reporting.compare import labels_of, setting_of
from pipeline.reporting.formats import count, limits, percent
from pipeline.reporting.rerun import headline_command
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
    """Show every protocol's scores, accuracy per class, confusion and calibration."""
    run = a.evidence.headline
    if run is None or run.cell is None:
        words = "The headline run that params.yaml asks for is not finished; `dvc repro` makes it."
        return [Text(words, tone="note")]
    scores = run.scores["classifier"]
    names = class_names(a, len(scores.per_class))
    tuned = (
        "" if "fine_tune" in run.scores else "Fine-tuning has not run yet: `dvc repro fine_tune`."
    )
    return [
        Text(
            f"{setting_of(run).name}, {labels_of(run)} ({count(run.num_labeled)} labeled and "
            f"{count(run.num_unlabeled or 0)} unlabeled images), seed {run.seed}. Intervals are "
            f"95%: Wilson over {count(scores.num_images)} test images, bootstrap for the "
            "calibration error. They do not cover the randomness of training; those of the "
            f"leaderboard do. Features are pooled by `{run.pool}`. To train it again: "
            f"`{headline_command(run.cell)}`.",
            link=Link("Its folder, commit and MLflow run", f"#{run.anchor}"),
        ),
        table_of(
            "Test scores. ECE is the expected calibration error over 15 bins, NLL the negative "
            "log-likelihood.",
            {"Protocol": "text", "Top-1": "percent", "Top-5": "percent"}
            | {"ECE": "percent", "NLL": "loss"},
            [
                {"Protocol": title, "Top-1": s.top1, "Top-5": s.top5, "ECE": s.ece, "NLL": s.nll}
                for name, title in _PROTOCOLS.items()
                if (s := run.scores.get(name)) is not None
            ],
        ),
        Text(tuned, tone="note"),
        Text(_calibration(run)),
        _reliability(run),
        _coverage(run),
        _classes(names, scores),
        _confusion(names, scores),
    ]


def _calibration(run: Run) -> str:
    def error(ece: Estimate) -> str:
        return f"{percent(ece.value)}% {limits(ece.low, ece.high)}"

    images = judges(run)
    before = error(run.scores["classifier"].ece)
    if run.temperature is None:
        from semimae.calibration import MIN_IMAGES  # loads torch, which takes seconds

        return (
            f"The probabilities are the network's own, since {images} are too few to fit a "
            f"temperature (at least {MIN_IMAGES} are needed). Their expected calibration error is "
            f"{before}."
        )
    return (
        f"The probabilities are calibrated by a temperature of {run.temperature:.2f}, which is "
        f"fitted on {images} and stored with the model. It changes the expected calibration error "
        f"from {before} to {error(run.scores['calibrated'].ece)}."
    )


def _reliability(run: Run) -> Block:
    bins = run.scores.get("calibrated", run.scores["classifier"]).calibration
    width = 100 / len(bins)
    table = table_of(
        "Test images by confidence, with the means of each bin.",
        {"Bin": "text", "Images": "count", "Confidence": "percent", "Accuracy": "percent"},
        [
            {
                "Bin": f"{i * width:.0f} to {(i + 1) * width:.0f}%",
                "Images": b.num_images,
                "Confidence": b.confidence,
                "Accuracy": b.accuracy,
            }
            for i, b in enumerate(bins)
            if b.num_images
        ],
    )
    if len(table.rows) < 2:
        return table
    title = "Calibration: accuracy over confidence. Points below the diagonal are overconfident."
    return Figure("calibration", title, charts.reliability(table))


def _coverage(run: Run) -> Figure:
    confidence, right = run.predictions["test_confidence"], run.right("test")
    kept = {threshold: right[confidence >= threshold] for threshold in _ABSTAIN}
    table = table_of(
        "Test images whose probability reaches a threshold of `predict --abstain`, with 95% Wilson "
        "intervals.",
        {"Confidence": "percent", "Coverage": "percent", "Accuracy": "percent"},
        [
            {
                "Confidence": threshold,
                "Coverage": len(images) / len(right),
                "Accuracy": proportion(int(images.sum()), len(images)),
            }
            for threshold, images in kept.items()
            if len(images)
        ],
    )
    title = "Accuracy over coverage: what `predict --abstain` gains, and which share it leaves"
    chart = charts.lines("coverage", table, "Coverage", "Accuracy", charts.PLAIN)
    return Figure("accuracy_over_coverage", title, chart)


def _classes(names: Sequence[str], scores: Scores) -> Block:
    kinds = {"Class": "text", "Accuracy": "percent", "Test images": "count"}
    found = zip(names, scores.per_class, map(sum, scores.confusion), strict=True)
    rows: list[dict[str, Any]] = [dict(zip(kinds, row, strict=True)) for row in found]
    if len(names) > _MOST_CLASSES:
        rows.sort(key=lambda row: row["Accuracy"].value)
        caption = f"The {_WORST} classes of lowest accuracy, of {len(names)}."
        return table_of(caption, kinds, rows[:_WORST])
    table = table_of("Accuracy of each class.", kinds, rows)
    chart = charts.rows("classes", table, "Class", "Accuracy", charts.PLAIN)
    return Figure("per_class", "Accuracy of each class", chart)


def _confusion(names: Sequence[str], scores: Scores) -> Block:
    kinds = {"True class": "text", "Predicted class": "text", "Images": "count", "Share": "percent"}
    rows: list[dict[str, Any]] = [
        dict(zip(kinds, (true, predicted, images, images / max(sum(row), 1)), strict=True))
        for true, row in zip(names, scores.confusion, strict=True)
        for predicted, images in zip(names, row, strict=True)
    ]
    if len(names) > _MOST_CLASSES:
        wrong = [r for r in rows if r["Images"] and r["True class"] != r["Predicted class"]]
        wrong.sort(key=lambda row: -row["Images"])
        return table_of("The pairs of classes that are confused most often.", kinds, wrong[:_WORST])
    text = "Images" if len(names) <= 20 else ""
    table = table_of("Test images.", kinds, rows)
    chart = charts.shades("pairs", table, "Predicted class", "True class", text=text)
    title = "Confusion matrix, counts of test images. Click on a cell to see its images below."
    return Figure("confusion", title, chart)
