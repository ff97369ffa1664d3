"""``python -m benchmarks``: one JSON file and one table, beside each other."""

import argparse
import json
import re
from pathlib import Path

import torch

from benchmarks.measure import machine, peak_flops
from benchmarks.run import measure_growth, measure_setting
from benchmarks.settings import SETTINGS
from benchmarks.table import table

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> Path:
    """Measure and write; return the path of the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [name for name in SETTINGS if name != "tiny"]
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=names)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=_DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, no growth")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    out: Path = options.out
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rounds = 1 if options.quick else options.rounds
    result = {
        "machine": machine(device),
        "rounds": rounds,
        "peak": {name: peak_flops(device, t, options.quick) for name, t in _DTYPES.items()},
        "settings": {},
        "growth_of": options.settings[0],
        "growth": [],
    }
    for index, name in enumerate(options.settings):
        print(f"{name} ...", flush=True)
        result["settings"][name] = measure_setting(
            SETTINGS[name],
            device,
            options.precision,
            result["peak"][options.precision],
            rounds,
            extra=index == 0,
        )
    if not options.quick:
        print("growth ...", flush=True)
        first = SETTINGS[options.settings[0]]
        result["growth"] = measure_growth(first, device, options.precision, min(rounds, 3))
    out.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W+", "-", str(result["machine"]["device"])).strip("-").lower()
    path = out / f"{stem}-{options.precision}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(result))
    print(table(result))
    return path


if __name__ == "__main__":
    main()
