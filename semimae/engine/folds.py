"""A run that is trained several times: parts of the labels judge it, then it learns from all.

The trainings that hold out a part of the labels come first, and each is kept when it has ended. The
last one is on all labels, which leaves nothing to validate it on: its validation is theirs.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from semimae.calibration import fit_temperature
from semimae.data.split import Split, as_rows
from semimae.data.store import Prepared, Rows
from semimae.distributed import any_process, wait_for_all, world
from semimae.engine.checkpoint import Row, TrainState
from semimae.engine.infer import HeldOut, probabilities_of
from semimae.engine.phases import fit_phases, is_finished, lock_for_all
from semimae.files import file_hash, replaced_file, write_text
from semimae.options.cell import Cell
from semimae.options.train import Rhythm
from semimae.tensors import save_tensors


class Fitted(NamedTuple):
    """A finished run."""

    state: TrainState  # of the last training, with the validation of those before it
    before: list[dict[str, Any]]  # what all that came before the last phase took
    held_out: HeldOut | None  # None: the split has validation images


def fit_run(
    cell: Cell,
    prepared: Prepared,
    split: Split,
    rhythm: Rhythm,
    *,
    resume: Path,
    finished: Callable[[Cell], Path],
    on_row: Callable[[str, Row], None],
    on_fold: Callable[[int, Row], None] = lambda number, row: None,
    should_stop: Callable[[], bool],
) -> Fitted:
    """Train a cell: once for each fold of its split, if it has any, and once on all its labels.

    All trainings have the same steps and the same seed.

    Args:
        cell: What to train.
        prepared: The images.
        split: Which of them are labeled, unlabeled and for validation.
        rhythm: How often rows are logged, the model is evaluated and the state is saved.
        resume: Folder for the checkpoints of this cell.
        finished: Returns the folder in which trainings like this one are kept, for all cells.
        on_row: Is told of the rows of the last training.
        on_fold: Is told of those of the folds, with the fold's number.
        should_stop: Asked once per step.
    """
    once = cell.once
    train = partial(
        fit_phases, once, prepared, rhythm=rhythm, finished=finished, should_stop=should_stop
    )
    parts: list[_Fold] = []
    before: list[dict[str, Any]] = []
    for number in range(len(split.folds)):
        part = split.without_fold(number, prepared)
        train_part = partial(
            train,
            part,
            resume=resume / f"fold-{number}",
            on_row=lambda kind, row, number=number: on_fold(number, row),
        )
        fold = _fit_fold(train_part, once, prepared, part, finished(once), should_stop)
        parts.append(fold)
        before += [{"fold": number, **cost} for cost in fold.costs]
    held_out, judged = _together(parts, prepared) if parts else (None, None)
    state, costs = train(split, resume=resume, on_row=on_row, judged=judged)
    return Fitted(state, before + costs, held_out)


class _Fold(NamedTuple):
    """A finished training that has held out a part of the labels."""

    rows: Rows  # held out
    probabilities: Tensor
    validation: list[Row]
    costs: list[dict[str, Any]]  # of all its phases


def _fit_fold(
    train: Callable[[], tuple[TrainState, list[dict[str, Any]]]],
    cell: Cell,
    prepared: Prepared,
    split: Split,
    folder: Path,
    should_stop: Callable[[], bool],
) -> _Fold:
    """Train with the validation images held out, unless that is done; another cell may be at it."""
    texts = (cell.model_dump_json(), prepared.info.fingerprint, split.model_dump_json())
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = folder / f"fold-{key}.safetensors"
    record = path.with_suffix(".json")  # written last
    rows = as_rows(split.val)
    with lock_for_all(path.with_suffix(".lock"), should_stop):
        if not any_process(world().rank == 0 and is_finished(path)):
            state, costs = train()
            probabilities = probabilities_of(state.ema, cell, prepared, rows, should_stop)
            if world().rank == 0:
                took = {
                    "method": cell.method,
                    "steps": cell.train.steps,
                    "images": cell.train.steps * cell.images_per_step,
                    "seconds": state.seconds,
                    "cpu_seconds": state.cpu_seconds,
                }
                with replaced_file(path) as temporary:
                    save_tensors({"probabilities": probabilities}, temporary)
                    digest = file_hash(temporary)
                content = {
                    "sha256": digest,
                    "validation": state.validation,
                    "costs": [*costs, took],
                }
                write_text(record, json.dumps(content))
            wait_for_all()  # until it is written
    content = json.loads(record.read_text())
    return _Fold(rows, load_file(path)["probabilities"], content["validation"], content["costs"])


def _together(parts: Sequence[_Fold], prepared: Prepared) -> tuple[HeldOut, dict[int, Row]]:
    """Return the predictions for all images that were held out, and the scores on them by step."""
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    probabilities = torch.cat([part.probabilities for part in parts])[torch.from_numpy(order)]
    held_out = HeldOut(rows[order], probabilities)
    first, *others = [{int(row["step"]): row for row in part.validation} for part in parts]
    sizes = [len(part.rows) for part in parts]
    judged = {
        step: _mean_scores([row, *(curve[step] for curve in others)], sizes)
        for step, row in first.items()
        if all(step in curve for curve in others)
    }
    temperature = fit_temperature(probabilities, torch.from_numpy(prepared.labels[held_out.rows]))
    if temperature is not None:
        judged[max(judged)]["val/temperature"] = temperature
    return held_out, judged


def _mean_scores(rows: Sequence[Row], sizes: Sequence[int]) -> Row:
    """Return the scores over all images, of rows that each scored some of them.

    The accuracy of pseudo labels counts images as they are in use.
    """
    accuracy, coverage = "val/pseudo_accuracy", "val/pseudo_coverage"
    found: Row = {}
    names = [name for name in rows[0] if name.startswith("val/") and name != "val/temperature"]
    for name in dict.fromkeys([*names, accuracy]):
        weights = [
            size * (row.get(coverage, 0.0) if name == accuracy else 1.0) * (name in row)
            for row, size in zip(rows, sizes, strict=True)
        ]
        if total := sum(weights):
            values = zip(rows, weights, strict=True)
            found[name] = sum(row.get(name, 0.0) * weight for row, weight in values) / total
    return found
