"""How right the pseudo labels are, and of which images that is known."""

from pipeline.reporting.blocks import (
    NONE,
    Block,
    Entry,
    Table,
    Value,
    accuracy,
    count,
    interval,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.evidence import Result
from pipeline.reporting.statistics import mean_over_seeds
from pipeline.reporting.study import Study
from semimae.evaluation.metrics import wilson


def pseudo_label_blocks(study: Study) -> list[Block]:
    """Tabulate coverage and accuracy at the end of training, with the images that they are of."""
    rows = [
        [study.named(setting), *_entries(study.grid[setting])]
        for setting in study.best_settings(study.main_fraction)
        if study.grid[setting][0].last("val/pseudo_coverage") is not None
    ]
    if not rows:
        return []
    table = Table(
        "Pseudo labels in use at the end of training, in %. Images whose label is trained on never "
        "count. Where the other unlabeled images have no known class, validation images stand for "
        "them: labeled by the same model and the same rule, but seen whole, without a weak view. "
        "Intervals: t over seeds; with one seed, Wilson over the validation images in use.",
        [
            *text_columns("Setting"),
            *number_columns("Coverage", "Right, unlabeled images", "Right, validation images"),
            *number_columns("Validation images in use"),
        ],
        rows,
    )
    return [table]


def _entries(results: list[Result]) -> list[Entry]:
    coverage = _known(results, "pseudo/coverage")
    right = _known(results, "pseudo/accuracy")
    on_validation = _known(results, "val/pseudo_accuracy")
    shares = _known(results, "val/pseudo_coverage")
    used = sum(share * r.num_val for share, r in zip(shares, results, strict=False))
    shown = Value("not known")
    if len(on_validation) == 1:
        low, high = wilson(on_validation[0], used)
        shown = Value(percent(on_validation[0]), interval(low, high))
    elif on_validation:
        shown = accuracy(mean_over_seeds(on_validation))
    return [
        accuracy(mean_over_seeds(coverage)) if coverage else NONE,
        accuracy(mean_over_seeds(right)) if right else Value("not known"),
        shown,
        f"{count(used)} of {count(sum(r.num_val for r in results))}",
    ]


def _known(results: list[Result], key: str) -> list[float]:
    return [value for result in results if (value := result.last(key)) is not None]
