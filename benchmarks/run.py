"""What is measured of one setting, and how things grow."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.baseline import Baseline, Loading
from benchmarks.loop import trained
from benchmarks.measure import interleaved, peak_memory
from benchmarks.ours import Ours
from benchmarks.settings import CLASSES, Setting, make_cell, make_data
from semimae.backbones.blocks import set_plain_attention
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.device import set_up_model
from semimae.evaluation.flops import count_flops, step_flops
from semimae.options.cell import Cell

REJECTED = 0.6  # share of the strong views that are forced below the threshold
WHERE = {"cpu": "cpu", "cuda": "always"}  # pseudo_label.skip_rejected


def measure_setting(
    setting: Setting, device: torch.device, precision: str, peak: float, rounds: int, extra: bool
) -> dict[str, Any]:
    """Return the figures of one setting; ``peak`` is of its precision, in operations per second."""
    kind = device.type
    where: Any = WHERE[kind]
    common: dict[str, object] = {"train__threads": torch.get_num_threads()}

    def cell(**changes: object) -> Cell:
        return make_cell(setting, kind, precision, **common, **changes)

    with tempfile.TemporaryDirectory() as folder:
        dense = cell(pseudo_label__skip_rejected="never")
        data = make_data(setting, Path(folder))
        ours = Ours(dense, *data, REJECTED)
        sparse = Ours(cell(pseudo_label__skip_rejected=where), *data, REJECTED)
        variants = {
            "dense": ours.step,
            "60% rejected": sparse.step,
            "baseline, one batch": Baseline(ours, concatenate=True, rejected=REJECTED).step,
            "baseline, separate": Baseline(ours, concatenate=False, rejected=REJECTED).step,
            "FixMatch": Ours(
                cell(method="fixmatch", pseudo_label__skip_rejected="never"), *data, REJECTED
            ).step,
        }
        if extra:
            for name, changes in _switched_off().items():
                variants[name] = Ours(
                    cell(pseudo_label__skip_rejected="never", **changes), *data, REJECTED
                ).step
        seconds = interleaved(variants, device, rounds)
        num_unlabeled = dense.num_unlabeled
        num_views = dense.images_per_step
        parts = interleaved(ours.parts(), device, rounds)
        loading = {
            "ours": lambda: ours.views.make(range(2, 3)),
            "PIL": Loading(ours.views, num_views).step,
        }
        views = interleaved(loading, device, rounds)
        flops = {
            "dense": step_flops(dense, CLASSES),
            "60% rejected": _counted(sparse),
            "baseline, one batch": count_flops(variants["baseline, one batch"]),
        }
        return {
            "batch": [dense.train.batch_size, num_unlabeled],
            "precision": precision,
            "parameters": sum(p.numel() for p in ours.model.parameters()),
            "seconds": seconds,
            "parts": parts,
            "data_seconds": views,
            "flops": flops,
            "unlabeled_per_second": {k: num_unlabeled / s for k, s in seconds.items()},
            "share_of_peak": {k: f / seconds[k] / peak for k, f in flops.items()},
            "speedup": {
                name: {
                    "dense": seconds[name] / seconds["dense"],
                    "60% rejected": seconds[name] / seconds["60% rejected"],
                }
                for name in ("baseline, one batch", "baseline, separate")
            },
            "mae_on_top": seconds["dense"] / seconds["FixMatch"] - 1,
            "peak_memory_mib": {
                name: peak_memory(variants[name], device) for name in variants if name != "FixMatch"
            },
            "data_wait": data_wait(dense, data, Path(folder), steps=4),
        }


def _counted(ours: Ours) -> int:
    """Count a step's operations with plain attention: a CPU's fused one is not in torch's list."""
    for model in (ours.model, ours.ema):
        set_plain_attention(model, True)
    counted = count_flops(ours.step)
    for model in (ours.model, ours.ema):
        set_up_model(model, ours.cell.train, ours.device)
    return counted


def _switched_off() -> dict[str, dict[str, object]]:
    """The exact savings, one switched off at a time, and what costs time to save memory."""
    return {
        "without class_token": {"train__trim": ["hidden_patches"]},
        "without hidden_patches": {"train__trim": ["class_token"]},
        "recompute": {"train__recompute": True},
    }


def data_wait(cell: Cell, data: tuple[Prepared, Split], folder: Path, steps: int) -> float:
    """Return the share of the steps' time that a real run waited for data; median, wall clock."""
    train = cell.train.model_copy(update={"steps": steps})
    state = trained(cell.model_copy(update={"train": train}), data, folder / "checkpoints")
    return statistics.median(row["data_wait"] for row in state.history[1:])


def measure_growth(
    setting: Setting, device: torch.device, precision: str, rounds: int
) -> list[dict[str, float | None]]:
    """Return step time and memory over batch, tokens and mask ratio, one changed at a time."""
    batch, mu = setting.batch[device.type]
    ratio, size = 0.75, setting.image_size
    points = [
        *((b, size, ratio) for b in (max(batch // 4, 1), max(batch // 2, 1), batch, 2 * batch)),
        *((batch, s, ratio) for s in (size // 2, size * 3 // 2)),
        *((batch, size, r) for r in (0.25, 0.5, 0.9)),
    ]
    rows: list[dict[str, float | None]] = []
    for number, pixels, hidden in dict.fromkeys(points):
        changed = setting._replace(image_size=pixels, file_size=(pixels, pixels))
        changes = {
            "train__batch_size": number,
            "train__threads": torch.get_num_threads(),
            "mask_ratio": hidden,
            "pseudo_label__skip_rejected": "never",
        }
        cell = make_cell(changed, device.type, precision, **changes)
        with tempfile.TemporaryDirectory() as folder:
            ours = Ours(cell, *make_data(changed, Path(folder)), 0.0)
            seconds = interleaved({"step": ours.step}, device, rounds)["step"]
            rows.append(
                {
                    "unlabeled": number * mu,
                    "tokens": (pixels // setting.patch_size) ** 2,
                    "mask_ratio": hidden,
                    "seconds": seconds,
                    "memory_mib": peak_memory(ours.step, device),
                }
            )
    return rows
