"""Pseudo labels that the teachers of self-training give to the unlabeled images."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semimae.data.split import Split
from semimae.data.store import Prepared, Rows
from semimae.engine.infer import probabilities_of
from semimae.model import SemiModel
from semimae.options.cell import Cell

_AT_ONCE = 2**14  # images whose probabilities are in memory at the same time


class Labels(NamedTuple):
    """Pseudo labels of ``U`` images."""

    votes: Tensor  # [U, K] int64; the student learns the K labels of an image with equal weight
    labels: Tensor  # [U] int64, the label that the ensemble gives
    confidence: Tensor  # [U], the teachers' mean probability of that label


def combine(probabilities: Tensor, ensemble: str) -> Labels:
    """Combine the predictions of several teachers into pseudo labels.

    Args:
        probabilities: ``[teachers, U, classes]``.
        ensemble: ``votes``: the class that most teachers predict, and of classes with equally many
            votes the one with the higher mean probability. ``probabilities``: the class with the
            highest mean probability.
    """
    mean = probabilities.mean(dim=0)  # [U, classes]
    votes = probabilities.argmax(dim=2).T.contiguous()  # [U, teachers]
    if ensemble == "votes":
        counts = functional.one_hot(votes, mean.shape[1]).sum(dim=1)
        labels = (counts + mean / 2).argmax(dim=1)  # half a probability never outweighs a vote
    else:
        labels = mean.argmax(dim=1)
        votes = labels.unsqueeze(1)
    confidence = mean.gather(1, labels.unsqueeze(1)).squeeze(1)
    return Labels(votes, labels, confidence.float())


def pseudo_labels(
    teachers: Sequence[tuple[Cell, SemiModel]],
    ensemble: str,
    prepared: Prepared,
    split: Split,
    should_stop: Callable[[], bool],
) -> tuple[Labels, dict[str, Any]]:
    """Label all unlabeled images in their evaluation view. Each process labels its share.

    Returns:
        The labels in the order of ``split.unlabeled``. Then, as plain JSON, what it cost and the
        accuracy of each teacher and of the ensemble on the validation images, if there are any.

    Raises:
        Interrupted: After ``should_stop``.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    val = np.asarray(split.val, dtype=np.int64)

    def predict(rows: Rows) -> Tensor:
        found = [probabilities_of(m, cell, prepared, rows, should_stop) for cell, m in teachers]
        return torch.stack(found)

    right: list[float | None] = [None] * len(teachers)
    together = None
    if len(val):
        known, of_val = torch.from_numpy(prepared.labels[val]), predict(val)
        right = (of_val.argmax(dim=2) == known).double().mean(dim=1).tolist()
        together = (combine(of_val, ensemble).labels == known).double().mean().item()
    rows = split.unlabeled(prepared)
    parts = np.array_split(rows, max(1, -(-len(rows) // _AT_ONCE)))
    labeled = [combine(predict(part), ensemble) for part in parts]
    labels = Labels(*(torch.cat(column) for column in zip(*labeled, strict=True)))
    return labels, {
        "method": "pseudo_labels",
        "steps": 0,
        "images": len(teachers) * (len(rows) + len(val)),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "val_images": len(val),
        "ensemble_top1": together,
        "teachers": [
            {
                "tuning": cell.backbone.tuning,
                "seed": cell.seed,
                "weights": cell.backbone.weights,
                "model": getattr(cell.backbone, "model", None),
                "top1": top1,
            }
            for (cell, _), top1 in zip(teachers, right, strict=True)
        ],
    }
