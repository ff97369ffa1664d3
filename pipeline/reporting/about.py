"""What is needed to judge and repeat the numbers: literature, provenance, cells."""

from pipeline.reporting.blocks import (
    NONE,
    TIMES,
    Block,
    Entry,
    Section,
    Table,
    Text,
    count,
    number_columns,
    text_columns,
)
from pipeline.reporting.study import Study
from pipeline.workspace import flat

_SEMI_VIT = "README of amazon-science/semi-vit"
_SSMAE = "wizwand.com summary of arXiv:2601.20072 (secondary)"
# Method, start, data, labels %, top-1 %, source. Notes on each: the project's survey of peers.
_LITERATURE = [
    ("Semi-MAE", "not in the abstract", "ImageNet", 10, "75.9", "abstract of arXiv:2301.01431"),
    ("Semi-ViT-S", "from scratch", "ImageNet", 10, "70.9", _SEMI_VIT),
    ("Semi-ViT-B", "from scratch", "ImageNet", 10, "73.5", _SEMI_VIT),
    ("Semi-ViT-S", "DINO weights", "ImageNet", 10, "77.1", "paperswithcode (secondary)"),
    ("Semi-ViT-B", "MAE weights", "ImageNet", 1, "71.0", _SEMI_VIT),
    ("Semi-ViT-B", "MAE weights", "ImageNet", 10, "79.7", _SEMI_VIT),
    ("Semi-ViT-L", "MAE weights", "ImageNet", 1, "77.3", _SEMI_VIT),
    ("Semi-ViT-L", "MAE weights", "ImageNet", 10, "83.3", _SEMI_VIT),
    ("Semi-ViT-H", "MAE weights", "ImageNet", 1, "80.0", _SEMI_VIT),
    ("Semi-ViT-H", "MAE weights", "ImageNet", 10, "84.3", _SEMI_VIT),
    ("SSMAE", "from scratch", "CIFAR-10", 10, "56.80", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-10", 20, "66.40", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-10", 30, "71.83", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-10", 40, "74.67", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-100", 10, "22.65", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-100", 20, "32.41", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-100", 30, "35.31", _SSMAE),
    ("SSMAE", "from scratch", "CIFAR-100", 40, "41.27", _SSMAE),
]


def literature_section() -> Section:
    """List what others report, apart from our numbers."""
    rows: list[list[Entry]] = [
        [method, start, data, f"{labels}%", top1, source]
        for method, start, data, labels, top1, source in _LITERATURE
    ]
    return Section(
        "literature",
        "What the literature reports",
        [
            Text(
                "This is an implementation of Semi-MAE with documented choices; the paper's tables "
                "are not reproduced here. The numbers below were not measured by this pipeline: "
                "other data, models, schedules and selection rules stand behind them. SSMAE's "
                "released code selects on the test set.",
                link=("../docs/method.md", "The choices: docs/method.md"),
            ),
            Table(
                "Reported by others; top-1 in %.",
                [
                    *text_columns("Method", "Start", "Data"),
                    *number_columns("Labels", "Top-1 %"),
                    *text_columns("Source"),
                ],
                rows,
            ),
        ],
    )


def provenance_section(study: Study, commit: str | None) -> Section:
    """State data, splits, code, parameters, and what is missing."""
    blocks: list[Block] = [
        Table("Data and code.", text_columns("What", "Value"), _facts(study, commit)),
    ]
    if study.fractions:
        blocks.append(_split_table(study))
    if missing := study.evidence.missing:
        blocks.append(
            Table(
                "Missing runs.",
                text_columns("Run", "Folder", "Why"),
                [[m.name, f"runs/{m.folder}", m.reason] for m in missing],
            )
        )
    params = study.evidence.params.model_dump(mode="json")
    blocks.append(
        Table(
            "params.yaml.",
            text_columns("Parameter", "Value"),
            [[name, str(value)] for name, value in flat(params).items()],
            folded=True,
        )
    )
    blocks.append(
        Text(
            "Everything here is read from the stage files below runs/. `dvc repro` makes them and "
            f"this report; the same grid, whatever params.yaml says: `{study.command}`."
        )
    )
    return Section("provenance", "Provenance", blocks)


def _facts(study: Study, commit: str | None) -> list[list[Entry]]:
    facts: list[list[Entry]] = []
    if info := study.evidence.dataset:
        rows = ", ".join(f"{count(n)} {name}" for name, n in info.counts.items() if n)
        size = f"{info.image_size} {TIMES} {info.image_size} {TIMES} {info.channels}"
        facts += [
            ["Dataset", f"{info.name}, {info.num_classes} classes, {size} pixels"],
            ["Fingerprint", info.fingerprint],
            ["Images", rows],
            ["Left out as unreadable", count(info.num_skipped)],
            ["Test images also in another split", count(info.duplicates_test_train)],
        ]
    facts.append(["Commit checked out when this was written", commit or NONE])
    return facts


def _split_table(study: Study) -> Table:
    rows: list[list[Entry]] = []
    for fraction in study.fractions:
        result = study.result_of(fraction)
        sizes = (result.num_labeled, result.num_unlabeled, result.num_val)
        rows.append([result.labels, *map(count, sizes)])
    return Table(
        "Images of each split.",
        [*text_columns("Labels"), *number_columns("Labeled", "Unlabeled", "Validation")],
        rows,
    )
