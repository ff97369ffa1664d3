"""The starting weights as they are: what they know without any training."""

import hashlib
import time
from typing import Any

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.evaluation.probe import Probed, probe
from semimae.model import SemiModel, model_of
from semimae.options.cell import Cell
from semimae.options.evaluation import LinearProbeConfig


def frozen_key(
    cell: Cell, prepared: Prepared, split: Split, config: LinearProbeConfig, code: str
) -> str:
    """Return what decides the scores of a cell's starting weights: equal keys are equal scores.

    Method, optimizer and tuning are no part of it, so that most cells of a grid share one.
    """
    backbone = cell.backbone
    if cell.backbone.tuning != "full":
        backbone = cell.backbone.model_copy(update={"tuning": "full", "lora": None})
    computes = (cell.train.device, cell.train.precision, cell.train.threads, *cell.train.trim)
    texts = (
        code,
        prepared.info.fingerprint,
        cell.data.model_dump_json(),
        backbone.model_dump_json(),
        str(cell.weights_sha256),
        repr(computes),
        config.model_dump_json(),
        split.model_dump_json(),
    )
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def probe_start(
    cell: Cell, prepared: Prepared, split: Split, config: LinearProbeConfig
) -> tuple[dict[str, Any], Probed]:
    """Score a cell's starting weights by a linear probe and nearest neighbors; nothing is trained.

    Returns:
        ``{"weights", "l2", "seconds", "protocols": {"linear_probe", "knn"}}``, plain JSON, and all
        that scoring led to. The classifier is left out: it has not been trained.

    Raises:
        UserError: If the weights are not there any more, or have changed.
    """
    began = time.perf_counter()
    model = SemiModel(model_of(cell, prepared).backbone, None)  # type: ignore[arg-type]
    found = probe(model, cell, prepared, split, config.model_copy(update={"trained": ()}))
    protocols = {name: found.scores["protocols"][name] for name in ("linear_probe", "knn")}
    scores = {
        "weights": cell.backbone.weights,
        "l2": found.scores["l2"],
        "seconds": time.perf_counter() - began,
        "protocols": protocols,
    }
    return scores, found
