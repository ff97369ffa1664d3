"""What one process of tests/engine/test_processes.py does; also called for one process."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from support import REGULARIZED, changed_params, small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.distributed import connected, wait_for_all, world
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.fit import fit
from semimae.engine.phases import phases
from semimae.options.cell import Cell
from semimae.types import Interrupted, UserError

Result = dict[str, Any]

# Small enough for a second each; three labeled images leave a fourth process without one.
COMMON = {
    "train__batch_size": 3,
    "train__mu": 3,
    "train__steps": 6,
    "train__ema_decay": 0.3,
    "backbone__embed_dim": 32,
    "optim__warmup_steps": 1,
    "optim__lr": 3e-3,
}
# Of a phase of Semi-ViT that has settings of its own.
OWN_PHASE = {
    "start__supervised": {
        "optim": {"lr": 1e-3, "betas": [0.9, 0.95]},
        "train": {"batch_size": 5, "drop_path": 0.3},
        "labeled": {"view": "strong", "mixup": 0.8, "smoothing": 0.1},
    }
}
LOW = {"pseudo_label__threshold": 0.34, "pseudo_label__momentum": 0.3}  # some labels count
CASES: dict[str, dict[str, object]] = {
    "supervised": {"method": "supervised"},
    "fixmatch": {"method": "fixmatch"} | LOW,
    "flexmatch": {"method": "flexmatch"} | LOW,
    "freematch": {"method": "freematch", "pseudo_label__alignment": "labeled"} | LOW,
    "softmatch": {"method": "softmatch"} | LOW,
    "mean_teacher": {"method": "mean_teacher"},
    "mae": {"method": "mae"},
    "ssmae": {"method": "ssmae", "ssmae__gate_accuracy": 0.0, "ssmae__gate_start": 0.0} | LOW,
    "semi_mae": {"method": "semi_mae"} | LOW,
    "lora": {"method": "semi_mae"} | LOW,
    "mixup": {"method": "semi_mae", "pseudo_label__mixup": True} | LOW,
    "regularized": {"method": "semi_mae", "pseudo_label__mixup": True} | LOW | REGULARIZED,
    "own phase": {"method": "semi_vit", "start__supervised_steps": 4} | OWN_PHASE,
    "all at once": {
        "method": "semi_mae",
        "pseudo_label__rule": "free",
        "pseudo_label__mixup": True,
        "mim__weighting": "gradient",
        "mim__weighting_every": 2,
        "train__drop_path": 0.5,
        "train__ema_warmup": False,
        "optim__grad_clip": None,
    }
    | LOW
    | REGULARIZED,
}


def case(name: str, **changes: object) -> Cell:
    params = changed_params(**(COMMON | CASES[name] | changes))
    cell = params.cell()
    if name == "own phase":
        return phases(cell)[1]
    if name != "lora":
        return cell
    # As if its first weights had come from a file.
    backbone = params.backbone.model_copy(update={"tuning": "lora"})
    return cell.model_copy(update={"backbone": backbone})


def run(
    cell: Cell,
    data: Path,
    folder: Path,
    stop: int | None = None,
    keep: type[Checkpoints] = Checkpoints,
    save_every: int = 3,
) -> Result:
    """Train; return curves and sums of the weights."""
    prepared = Prepared.read(data / "prepared")
    split = Split.read(data / "split.json", prepared)
    steps = iter(range(1, cell.train.steps + 1))
    try:
        state = fit(
            cell,
            prepared,
            split,
            small_rhythm(train__gradient_every=2, train__save_every=save_every),
            checkpoints=keep(folder),
            on_row=lambda kind, row: None,
            should_stop=lambda: next(steps) == stop and world().rank == world().size - 1,
        )
    except Interrupted:
        return {}
    clock = ("time_ms", "seconds", "cpu_seconds", "data_wait")
    rows = state.history + state.validation
    return {
        "rows": [{k: v for k, v in row.items() if k not in clock} for row in rows],
        "weights": {k: v.double().sum().item() for k, v in state.ema.named_parameters()},
        "state": {k: v.double().sum().item() for k, v in state.method.named_buffers()},
        "processes": world().size,
    }


class SlowDisk(Checkpoints):
    """Saving takes the first process longer than the others need to come back for it."""

    def save(self, state: TrainState) -> None:
        time.sleep(0.5)
        super().save(state)


def resume_at_once(data: Path, out: Path) -> dict[str, Result]:
    """Stop and continue within one process; then again, where the second sees an older disk."""
    cell, rank = case("semi_mae"), world().rank
    run(cell, data, out / "slow", stop=3, keep=SlowDisk, save_every=2)
    folder, refused = out / "slow", False
    if rank == 1:
        folder = out / "older"
        shutil.copytree(out / "slow", folder)
        (folder / "step-000000004.json").unlink()
    try:
        run(cell, data, folder, save_every=2)
    except UserError as error:
        refused = "step-000000004.json cannot be loaded by all processes" in str(error)
    wait_for_all()
    at_once = run(cell, data, out / "slow", save_every=2)
    return {"at once": at_once, "older disk": {"refused": refused}}


def main(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with connected() as here:
        results = {name: run(case(name), data, out / name) for name in CASES}
        if here.size == 2:
            run(case("semi_mae"), data, out / "resumed", stop=3, save_every=1)
        if here.size == 2:
            results |= resume_at_once(data, out)
            sharded = case("semi_mae", train__sharding="zero1")
            run(sharded, data, out / "zero1", stop=4, save_every=2)
            results["zero1"] = run(sharded, data, out / "zero1", save_every=2)
            run(sharded, data, out / "zero1-resumed", stop=4, save_every=2)
            sharded = case("lora", train__sharding="zero1")
            results["lora, zero1"] = run(sharded, data, out / "lora-zero1")
            for name in ("freematch", "mixup", "regularized", "all at once"):
                cell = case(name, train__accumulate=2)
                results[f"{name}, accumulated"] = run(cell, data, out / f"{name}-accumulated")
        (out / f"rank{here.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
