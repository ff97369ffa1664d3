"""The figures as Markdown."""

from collections.abc import Sequence
from typing import Any


def table(result: dict[str, Any]) -> str:
    """Return the tables of one run, as far as it got."""
    m = result["machine"]
    peaks = [f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in result["peak"].items()]
    lines = [
        f"{m['device']}, {m['threads']} thread(s), torch {m['torch']}, commit {m['commit']}. "
        f"Seconds are {m['clock']}, medians of {result['rounds']} interleaved rounds. Peak of a "
        f"matrix product: {', '.join(peaks)}.",
    ]
    for name, setting in result["settings"].items():
        lines += _setting(name, setting)
    if "growth" in result:
        lines += ["", f"**Growth**, {result['measured_on']}:", ""]
        lines += _rows(
            ["unlabeled", "tokens", "mask ratio", "s", "memory, MiB"],
            [
                [
                    row["unlabeled"],
                    row["tokens"],
                    row["mask_ratio"],
                    f"{row['seconds']:.3g}",
                    _whole(row["memory_mib"]),
                ]
                for row in result["growth"]
            ],
        )
    if "choices" in result:
        lines += [
            "",
            f"**Choices**, each alone, {result['measured_on']} where nothing else is named:",
            "",
        ]
        lines += _choices(result["choices"])
    if "medium_error" in result:
        lines += [
            "",
            f"- Largest error at medium: {result['medium_error']:.1g} of the largest entry.",
        ]
    if "compile" in result:
        lines += ["", "**torch.compile** of the blocks, 64 images, forward and backward:", ""]
        lines += _rows(["", "s"], [[k, f"{v:.3g}"] for k, v in result["compile"].items()])
    if "decoding" in result:
        lines += ["", "**Large images**: JPEG of 500 x 375 to 224 x 224, per image:", ""]
        lines += _rows(["", "ms"], [[k, f"{v:.2f}"] for k, v in result["decoding"].items()])
    if "lock" in result:
        shares = [f"{share:.0%} ({what})" for what, share in result["lock"].items()]
        lines += ["", f"- A thread holds Python's lock for {', '.join(shares)} of an image's time."]
    if "workers" in result:
        rows = [
            [way, f"{m['images/s']:.0f}", f"{m['here']:.2f}", f"{m['in all']:.2f}"]
            for way, m in result["workers"].items()
        ]
        heads = ["decode and two crops", "images/s", "processor ms, this process", "in all"]
        lines += ["", *_rows(heads, rows)]
    if "startup" in result:
        lines += ["", "**Starting**:", ""]
        rows = [
            [name, f"{s['wall']:.2f}", f"{s['processor']:.2f}"]
            for name, s in result["startup"].items()
        ]
        lines += _rows(["", "wall, s", "processor, s"], rows)
    return "\n".join(lines) + "\n"


def _setting(name: str, s: dict[str, Any]) -> list[str]:
    labeled, unlabeled = s["batch"]
    lines = [
        "",
        f"**{name}**, {labeled} labeled and {unlabeled} unlabeled images per step, "
        f"{s['precision']}:",
        "",
    ]
    rows = []
    for variant, seconds in s["seconds"].items():
        share = s["share_of_peak"].get(variant)
        memory = _whole(s["peak_memory_mib"].get(variant))
        speed = f"{s['unlabeled_per_second'][variant]:.3g}"
        rows.append(
            [variant, f"{seconds:.3g}", speed, "" if share is None else f"{share:.0%}", memory]
        )
    lines += _rows(["step", "s", "unlabeled images/s", "of peak", "memory, MiB"], rows)
    parts = [
        [part, f"{seconds:.3g}", f"{unlabeled / seconds:,.0f}"]
        for part, seconds in s["parts"].items()
    ]
    lines += ["", *_rows(["part", "s", "unlabeled images/s"], parts), ""]
    for peer, ratios in s["speedup"].items():
        shown = ", ".join(f"{ratio:.2f}x ({variant})" for variant, ratio in ratios.items())
        lines.append(f"- Against {peer}: {shown}.")
    data = s["data_seconds"]
    return [
        *lines,
        f"- The MAE branch adds {s['mae_on_top']:.0%} to FixMatch.",
        f"- Views: {data['PIL'] / data['ours']:.1f}x the speed of PIL transforms in a "
        f"DataLoader; a run waited {s['data_wait']:.1%} of its time for them.",
    ]


def _choices(seconds: dict[str, float]) -> list[str]:
    rows = []
    for name, value in seconds.items():
        subject, _, option = name.partition(": ")
        least = min(v for k, v in seconds.items() if k.startswith(f"{subject}: "))
        rows.append([subject, option, f"{1000 * value:.2f}", f"{value / least:.2f}"])
    return _rows(["", "", "ms", "to the fastest"], rows)


def _rows(header: list[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
