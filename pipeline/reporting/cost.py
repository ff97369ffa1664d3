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
        "Images: labelled and unlabelled of all steps, repetitions included. Time: of training, "
        f"with its validation. Device-hours: time {TIMES} processes, and {TIMES} threads on a CPU. "
        "FLOP: multiplications and additions of matrix products and convolutions, forward and "
        "backward, counted from the model and not measured; strong views that a CPU run leaves out "
        "because their pseudo label is rejected are counted all the same. Scoring is not in any of "
        "them."
    )
    if any(result.earlier_images for result in study.evidence.results):
        words += (
            " Where a method trains in phases, time and device-hours are of the last phase, images "
            "and FLOP of all."
        )
    blocks = [Text(words)]
    tables = [_setting_table(study)] if study.grid else []
    return Section("cost", "Cost", [*blocks, *tables, _device_table(study)])


def device_hours(results: list[Result]) -> str:
    """Return the hours of each kind of device that some runs took, for people."""
    hours: dict[str, float] = defaultdict(float)
    for result in results:
        hours[result.origin.device or "device"] += result.device_hours
    names = {"cpu": "CPU core-hours", "cuda": "GPU-hours"}
    return " and ".join(
        f"{_hours(value)} {names.get(device, f'{device} hours')}" for device, value in hours.items()
    )


def total_work(results: list[Result]) -> str:
    """Return the arithmetic of some runs, if it is known for all."""
    flops = [result.origin.flops for result in results]
    return NONE if None in flops else work(sum(filter(None, flops)))


def _setting_table(study: Study) -> Table:
    rows: list[list[Entry]] = []
    for setting, results in study.grid.items():
        n, seconds = len(results), sum(r.seconds for r in results)
        flops = [r.origin.flops for r in results]
        known = sum(filter(None, flops)) if None not in flops else 0
        in_phases = any(r.earlier_images for r in results)
        rows.append(
            [
                study.named(setting),
                study.short_labels(setting.label_fraction),
                count(results[0].images_seen),
                duration(seconds / n),
                _hours(sum(r.device_hours for r in results) / n),
                work(known / n),
                NONE if in_phases or not seconds else work(known / seconds),
                str(n),
                ", ".join(dict.fromkeys(r.origin.machine for r in results)),
            ]
        )
    return Table(
        "Cost of one run of each setting, mean over seeds.",
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
