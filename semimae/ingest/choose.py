"""Choose which training images keep their labels and which are held out for validation."""

import hashlib
import logging
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semimae.data.split import Split, count_classes, without_labels
from semimae.data.store import Prepared
from semimae.ingest.label_list import match_names
from semimae.ingest.stratify import held_out_count, stratified_folds, stratified_order
from semimae.options.cell import Cell
from semimae.types import UserError

_log = logging.getLogger(__name__)
_NO_ROWS = np.zeros(0, dtype=np.int64)


def split_for(cell: Cell, prepared: Prepared, lists: Path = Path()) -> Split:
    """Choose the labeled and the validation rows of a cell.

    Args:
        cell: Gives the number of labels, or a list of labeled images, and the seed.
        prepared: The dataset.
        lists: Folder in which a relative ``data.labeled_list`` is looked up.

    Raises:
        UserError: If the number of labels is out of range, or the method lacks unlabeled images.
    """
    names = cell.data.labeled_list
    split = make_split(
        prepared,
        seed=cell.seed,
        label_fraction=cell.label_fraction,
        num_labels=cell.num_labels,
        labeled_list=None if names is None else lists / names,
        val_fraction=cell.data.val_fraction,
        include_labeled=cell.data.include_labeled,
        folds=cell.data.folds,
        refit=cell.refit,
    )
    split.check_unlabeled(cell.method, cell.num_unlabeled)
    if (
        cell.num_unlabeled
        and cell.data.include_labeled
        and split.num_unlabeled == len(split.labeled)
    ):
        _log.warning(
            "method=%s learns from unlabeled images, but there are none apart from the %d labeled "
            "ones; add unlabeled images, or use fewer labels (label_fraction, num_labels).",
            cell.method,
            len(split.labeled),
        )
    return split


def make_split(
    prepared: Prepared,
    *,
    seed: int,
    label_fraction: float | None = None,
    num_labels: int | None = None,
    labeled_list: Path | None = None,
    val_fraction: float,
    include_labeled: bool,
    folds: int = 0,
    refit: bool = False,
) -> Split:
    """Choose validation and labeled rows from the dataset's content and the seed alone.

    All training rows are put in one stratified order: the first rows are labeled, the last ones are
    for validation. With the same seed, a smaller labeled set is a subset of a larger one, does not
    depend on val_fraction, and is the same for ``label_fraction`` and ``num_labels`` if the counts
    agree. If the dataset has "val" rows of its own, those are used for validation instead.

    Args:
        prepared: The dataset.
        seed: Any integer.
        label_fraction: Fraction of all labeled training rows, in (0, 1]. Rows held out for
            validation are not included.
        num_labels: Number of labeled rows, at least one per class.
        labeled_list: File, plain or .gz, with one image name per line; see `match_names`.
            Validation rows come from outside the list if there are enough other rows.
        val_fraction: Fraction of the training rows to validate on.
        include_labeled: Whether labeled rows also serve as unlabeled ones.
        folds: If not 0, the labeled rows are divided into so many stratified folds, and no other
            rows are for validation.
        refit: Whether the rows for validation become labeled ones, as the only fold.

    Raises:
        UserError: If not exactly one of the three ways to choose labels is given, or if the number
            of labels is out of range.
    """
    if (num_set := 3 - (label_fraction, num_labels, labeled_list).count(None)) != 1:
        raise UserError(
            f"{num_set} of label_fraction, num_labels, data.labeled_list are set; set exactly one."
        )
    info = prepared.info
    train = np.flatnonzero(prepared.splits == "train")
    official_val = np.flatnonzero(prepared.splits == "val")
    num_val = 0
    if folds and len(official_val):
        raise UserError(
            f"data.folds={folds} validates on the labeled images in turn, but this dataset has "
            f"{len(official_val)} validation images of its own: set data.folds: 0, or make them "
            "training images."
        )
    if not folds and not len(official_val):
        num_val = held_out_count(len(train), val_fraction, info.num_classes, "data.val_fraction")
    rank = _uniform(len(prepared.names), info.fingerprint, seed)
    listed = source = None
    if labeled_list is not None:
        named, found, missing, source = match_names(labeled_list, prepared, train)
        listed = found, found + len(missing)
        if missing:
            _log.warning(
                "%s: %d of %d lines do not match a training image, first: %s",
                labeled_list.name,
                len(missing),
                listed[1],
                missing[0],
            )
        others = np.setdiff1d(train, named)
        pool = others if len(others) >= num_val else train
        val = pool[stratified_order(prepared.labels[pool], rank[pool])][len(pool) - num_val :]
        labeled = np.setdiff1d(named, val)
        if not len(labeled):
            raise UserError("all listed images are needed for validation; lower data.val_fraction.")
    else:
        order = train[stratified_order(prepared.labels[train], rank[train])]
        rest, val = order[: len(order) - num_val], order[len(order) - num_val :]
        if label_fraction is not None:
            num_labeled = round(label_fraction * len(order))
            asked = f"label_fraction={label_fraction:g} asks for {num_labeled} labels"
            if label_fraction <= 1:
                num_labeled = min(num_labeled, len(rest))
        else:
            assert num_labels is not None
            num_labeled, asked = num_labels, f"num_labels={num_labels}"
        if not info.num_classes <= num_labeled <= len(rest):
            least = math.ceil(1e6 * info.num_classes / len(order)) / 1e6
            raise UserError(
                f"{asked}; allowed: {info.num_classes} (one per class; label_fraction "
                f"{least:g}) to {len(rest)} (all training images that are not held out)."
            )
        labeled = rest[:num_labeled]
    val = np.sort(val) if num_val else official_val
    parts: list[NDArray[np.int64]] = []
    if folds:
        labeled, val = np.sort(labeled), _NO_ROWS
        _check_folds(prepared, labeled, folds)
        dealt = stratified_folds(prepared.labels[labeled], rank[labeled], folds)
        parts = [labeled[places] for places in dealt]
    elif refit:
        labeled, val, parts = np.concatenate((labeled, val)), _NO_ROWS, [val]
    hidden = without_labels(prepared, _NO_ROWS if include_labeled else labeled, val)
    return Split(
        fingerprint=info.fingerprint,
        seed=seed,
        label_fraction=label_fraction,
        num_labels=num_labels,
        labeled_list=source,
        listed=listed,
        include_labeled=include_labeled,
        labeled=tuple(np.sort(labeled).tolist()),
        val=tuple(val.tolist()),
        class_counts=count_classes(prepared, labeled),
        num_unlabeled=len(hidden),
        folds=tuple(tuple(part.tolist()) for part in parts),
    )


def _check_folds(prepared: Prepared, labeled: NDArray[np.int64], folds: int) -> None:
    """Refuse folds that would leave a class without a labeled image, or be empty."""
    counts = count_classes(prepared, labeled)
    if 1 in counts:
        name = prepared.info.class_names[counts.index(1)]
        raise UserError(
            f"data.folds={folds}: class {name} has one labeled image, and the fold that holds it "
            "out has none to train on; label at least two images of each class."
        )
    if folds > len(labeled):
        raise UserError(
            f"data.folds={folds}: there are {len(labeled)} labeled images; allowed: up to as many "
            "folds, or 0."
        )


def _uniform(n: int, *key: int | str) -> NDArray[np.float64]:
    """Return draws ``[n]`` that depend on ``key`` only."""
    seed = int.from_bytes(hashlib.sha256(repr(("split", *key)).encode()).digest(), "little")
    return np.random.Generator(np.random.PCG64(seed)).random(n)
