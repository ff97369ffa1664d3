"""``python -m benchmarks``: one JSON file and one table, beside each other."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from benchmarks.choices import measure_choices, measure_compile, product_error
from benchmarks.decoding import lock_shares, measure_decoding, measure_workers
from benchmarks.measure import machine, peak_flops
from benchmarks.run import measure_growth, measure_setting
from benchmarks.settings import SETTINGS, make_params
from benchmarks.startup import measure_startup
from benchmarks.table import table

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> Path:
    """Measure and write; return the path of the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [name for name in SETTINGS if name != "tiny"]
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=names)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=_DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of the settings alone")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile too, which takes long"
    )
    parser.add_argument("--grid", action="store_true", help="DVC with 150 cells too, also long")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    out: Path = options.out
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rounds = 1 if options.quick else options.rounds
    measured_on = (options.settings or names)[0]
    first = SETTINGS[measured_on]
    result: dict[str, Any] = {
        "machine": machine(device),
        "rounds": rounds,
        "peak": {name: peak_flops(device, t, options.quick) for name, t in _DTYPES.items()},
        "settings": {},
        "measured_on": measured_on,  # what follows
    }
    stem = re.sub(r"\W+", "-", str(result["machine"]["device"])).strip("-").lower()
    path = out / f"{stem}-{options.precision}.json"
    out.mkdir(parents=True, exist_ok=True)

    def add(name: str, figures: object, to: dict[str, Any] = result) -> None:
        """Write after each part: the whole takes many minutes."""
        to[name] = figures
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(result))
        print(f"{name}: done", flush=True)

    if not options.quick:
        data = make_params(first, device.type, options.precision).data
        add("decoding", measure_decoding(data, rounds))
        add("lock", lock_shares(data, rounds))
        add("workers", measure_workers(data, rounds))
        add("choices", measure_choices(first, device, rounds))
        add("medium_error", product_error())
        add("startup", measure_startup(rounds, grid=options.grid))
    for index, name in enumerate(options.settings):
        peak = result["peak"][options.precision]
        figures = measure_setting(
            SETTINGS[name], device, options.precision, peak, rounds, extra=index == 0
        )
        add(name, figures, result["settings"])
    if options.settings and not options.quick:
        add("growth", measure_growth(first, device, options.precision, min(rounds, 3)))
    if options.compile:
        add("compile", measure_compile(first, device, options.precision, rounds))
    print(table(result))
    return path


if __name__ == "__main__":
    main()
