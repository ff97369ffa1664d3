"""Measure how long a training step takes on this machine, with random images."""

import tempfile
import time
from pathlib import Path

import numpy as np

from semimae.data.split import Split
from semimae.data.store import DatasetInfo, Prepared
from semimae.engine.checkpoint import Checkpoints
from semimae.engine.fit import fit
from semimae.ingest.choose import make_split
from semimae.options.cell import Cell
from semimae.options.train import Rhythm

_IMAGES_PER_CLASS = 8


def seconds_per_step(cell: Cell, num_classes: int, steps: int = 20) -> float:
    """Train for some steps on noise and return the time per step, after a warm-up.

    Args:
        cell: Gives the model, batch and method. It has one phase.
        num_classes: Classes of the dataset.
        steps: Number of steps to measure.
    """
    warm_up = max(2, steps // 4)
    train = cell.train.model_copy(update={"steps": warm_up + steps})
    optim = cell.optim.model_copy(update={"warmup_steps": 0})
    cell = cell.model_copy(update={"train": train, "optim": optim})
    rhythm = Rhythm(
        eval_every=warm_up + steps,
        log_every=warm_up + steps,
        save_every=warm_up + steps,
        gradient_every=0,
        max_bad_steps=warm_up + steps,
    )
    prepared, split = _noise(cell, num_classes)
    times: list[float] = []

    def note() -> bool:
        """Record the time of each step, and do not ask to stop."""
        times.append(time.perf_counter())
        return False

    with tempfile.TemporaryDirectory() as folder:
        fit(
            cell,
            prepared,
            split,
            rhythm,
            checkpoints=Checkpoints(Path(folder)),
            on_row=lambda kind, row: None,
            should_stop=note,
        )
    return (times[warm_up + steps - 1] - times[warm_up - 1]) / steps


def _noise(cell: Cell, num_classes: int) -> tuple[Prepared, Split]:
    size, channels, count = cell.data.image_size, cell.data.channels, _IMAGES_PER_CLASS
    labels = np.repeat(np.arange(num_classes), count)
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (len(labels), size, size, channels), dtype=np.uint8)
    names = [f"{place:06d}" for place in range(len(labels))]
    splits = np.array(["train"] * len(labels))
    info = DatasetInfo.model_validate(
        {
            "name": "noise",
            "fingerprint": "noise",
            "num_classes": num_classes,
            "class_names": tuple(map(str, range(num_classes))),
            "image_size": size,
            "channels": channels,
            "packed": True,
            "cache_size": None,
            "white_level": None,
            "mean": (0.5,) * channels,
            "std": (0.25,) * channels,
            "counts": {"train": len(labels)},
            "num_skipped": 0,
            "duplicates_test_train": 0,
        }
    )
    prepared = Prepared(info, names, labels, splits, images)
    return prepared, make_split(
        prepared, seed=0, label_fraction=1.0, val_fraction=1 / count, include_labeled=True
    )
