"""Methods that train for equally long, instead of for equally many steps."""

from pipeline.reporting.answer import cost
from pipeline.reporting.blocks import (
    Block,
    Entry,
    Section,
    Table,
    Text,
    accuracy,
    count,
    duration,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.compare import fractions, over_seeds, ranked, top1, val_top1
from pipeline.reporting.settings import difference_table
from pipeline.reporting.study import Study


def equal_time_section(study: Study) -> Section:
    """Rank the methods at equal time and list their differences."""
    factors = study.evidence.params.ablation.time_factor
    stated = ", ".join(
        f"{method} {factors[method]:g}" for method in study.methods if method in factors
    )
    blocks: list[Block] = [
        Text(
            "Here each method has as many steps as take about the same time as the others: "
            f"train.steps times its factor in ablation.time_factor ({stated}). The columns of time "
            "say how well that was met; processor time is not disturbed by other programs."
        )
    ]
    for fraction in fractions(study.timed):
        preferred = ranked(study.timed, fraction, study.asked)
        settings = sorted(preferred, key=lambda s: -over_seeds(study.timed[s], top1()).mean)
        rows: list[list[Entry]] = []
        for setting in settings:
            results = study.timed[setting]
            rows.append(
                [
                    study.named(setting, timed=True),
                    accuracy(over_seeds(results, top1())),
                    percent(over_seeds(results, val_top1).mean),
                    str(len(results)),
                    count(results[0].cell.train.steps),
                    count(results[0].images_seen),
                    cost(results),
                    duration(over_seeds(results, lambda r: r.cpu_seconds).mean),
                ]
            )
        columns = ("Classifier", "Validation", "Seeds", "Steps", "Images seen", "Time", "CPU time")
        blocks.append(
            Table(
                f"{study.labels(fraction)}, each method {study.choice}",
                [*text_columns("Setting"), *number_columns(*columns)],
                rows,
                strong=settings.index(preferred[0]),
            )
        )
    if study.between_timed:
        blocks.append(
            difference_table(
                study, "Between methods at equal time.", study.between_timed, timed=True
            )
        )
    return Section("equal-time", "At equal time", blocks)
