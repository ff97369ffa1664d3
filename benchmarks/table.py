"""The figures as Markdown."""

from typing import Any


def table(result: dict[str, Any]) -> str:
    """Return the tables of one run."""
    m = result["machine"]
    lines = [
        f"{m['device']}, {m['threads']} thread(s), torch {m['torch']}, commit {m['commit']}. "
        f"Seconds are {m['clock']}, medians of {result['rounds']} interleaved rounds. Peak of a "
        "matrix product: "
        + ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in result["peak"].items())
        + ".",
    ]
    for name, s in result["settings"].items():
        lines += ["", f"**{name}**, {s['batch'][0]} labelled and {s['batch'][1]} unlabelled images"]
        lines[-1] += f" per step, {s['precision']}:"
        lines += ["", "| step | s | unlabelled images/s | of peak | memory, MiB |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for variant, seconds in s["seconds"].items():
            share = s["share_of_peak"].get(variant)
            memory = s["peak_memory_mib"].get(variant)
            cells = [
                variant,
                f"{seconds:.3g}",
                f"{s['unlabelled_per_second'][variant]:.3g}",
                "" if share is None else f"{share:.0%}",
                "" if memory is None else f"{memory:,.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "| part | s |", "| --- | --- |"]
        lines += [f"| {part} | {seconds:.3g} |" for part, seconds in s["parts"].items()]
        lines.append("")
        for peer, ratios in s["speedup"].items():
            shown = ", ".join(f"{ratio:.2f}x ({variant})" for variant, ratio in ratios.items())
            lines.append(f"- Against {peer}: {shown}.")
        data = s["data_seconds"]
        lines += [
            f"- The MAE branch adds {s['mae_on_top']:.0%} to FixMatch.",
            f"- Views: {data['PIL'] / data['ours']:.1f}x the speed of PIL transforms in a "
            f"DataLoader; a run waited {s['data_wait']:.1%} of its time for them.",
        ]
    if result["growth"]:
        lines += ["", f"Growth, {result['growth_of']}:", ""]
        lines += ["| unlabelled | tokens | mask ratio | s | memory, MiB |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for row in result["growth"]:
            memory = "" if row["memory_mib"] is None else f"{row['memory_mib']:,.0f}"
            lines.append(
                f"| {row['unlabelled']} | {row['tokens']} | {row['mask_ratio']} | "
                f"{row['seconds']:.3g} | {memory} |"
            )
    return "\n".join(lines) + "\n"
