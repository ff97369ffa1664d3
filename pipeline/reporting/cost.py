"""What the runs cost: images, time, device-hours and arithmetic."""

from collections import defaultdict

from pipeline.reporting.blocks import (
    NONE,
    TIMES,
    Entry,
    Section,
    Table,
    Text,
    count,
    duration,
    number_columns,
    text_columns,
    work,
)
from pipeline.reporting.evidence import Result
from pipeline.reporting.study import Study


def cost_section(study: Study) -> Section:
    """Show the cost of each setting and, by device, of the whole report."""
    words = (
        "Images: labeled and unlabeled of all steps, repetitions included. Time: of training, "
        "with its validation. Device-hours: processor time of all processes on a CPU, else time "
        f"{TIMES} devices. FLOP: multiplications and additions of matrix products and "
        "convolutions, forward and backward, counted from the model and not measured; strong views "
        "that a CPU run leaves out because their pseudo label is rejected are counted all the "
        "same. Of methods that train in phases all phases count. Scoring is in none of them."
    )
    blocks = [Text(words)]
    tables = [_setting_table(study, timed=timed) for timed in (False, True)]
    return Section("cost", "Cost", [*blocks, *(t for t in tables if t.rows), _device_table(study)])


def device_hours(results: list[Result]) -> str:
    """Return the hours of each kind of device that some runs took, for people."""
    hours: dict[str, float] = defaultdict(float)
    for result in results:
        hours[result.origin.device or "device"] += result.device_hours
    names = {"cpu": "CPU-hours", "cuda": "GPU-hours"}
    return " and ".join(
        f"{_hours(value)} {names.get(device, f'{device} hours')}" for device, value in hours.items()
    )


def total_work(results: list[Result]) -> str:
    """Return the arithmetic of some runs, if it is known for all."""
    flops = [result.origin.flops for result in results]
    return NONE if None in flops else work(sum(filter(None, flops)))


def _setting_table(study: Study, *, timed: bool) -> Table:
    rows: list[list[Entry]] = []
    for setting, results in (study.timed if timed else study.with_baselines).items():
        n, seconds = len(results), sum(r.seconds for r in results)
        flops = [r.origin.flops for r in results]
        known = sum(filter(None, flops)) if None not in flops else 0
        rows.append(
            [
                study.named(setting, timed=timed),
                study.short_labels(setting.label_fraction),
                count(results[0].images_seen),
                duration(seconds / n),
                _hours(sum(r.device_hours for r in results) / n),
                work(known / n),
                work(known / seconds if seconds else None),
                str(n),
                ", ".join(dict.fromkeys(r.origin.machine for r in results)),
            ]
        )
    return Table(
        "Cost of one run of each setting, mean over seeds" + (", at equal time." if timed else "."),
        [
            *text_columns("Setting", "Labels"),
            *number_columns("Images", "Time", "Device-hours", "FLOP", "FLOP/s", "Seeds"),
            *text_columns("Device"),
        ],
        rows,
    )


def _device_table(study: Study) -> Table:
    by_machine: dict[str, list[Result]] = defaultdict(list)
    for result in study.evidence.results:
        by_machine[result.origin.machine].append(result)
    rows: list[list[Entry]] = [
        [
            machine,
            str(len(results)),
            count(sum(r.images_seen for r in results)),
            duration(sum(r.seconds for r in results)),
            _hours(sum(r.device_hours for r in results)),
            total_work(results),
        ]
        for machine, results in by_machine.items()
    ]
    return Table(
        "All runs of this report, by device.",
        [
            *text_columns("Device"),
            *number_columns("Runs", "Images", "Time", "Device-hours", "FLOP"),
        ],
        rows,
    )


def _hours(value: float) -> str:
    return f"{value:.3g}"
