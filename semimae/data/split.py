"""Which training images keep their labels and which are held out for model selection."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from semimae.data.files import write_text
from semimae.data.label_list import match_names
from semimae.data.store import Prepared
from semimae.data.stratify import Rows, held_out_count, stratified_order
from semimae.types import Frozen, UserError

RowNumbers = tuple[Annotated[int, Field(ge=0, lt=2**63)], ...]


class Split(Frozen):
    """A file of row numbers into one prepared dataset; row numbers are sorted."""

    fingerprint: str  # of the dataset
    seed: int
    label_fraction: float | None  # exactly one of these three says how the labels were chosen
    num_labels: int | None
    labeled_list: str | None  # "NAME sha256:HEX" of the list
    listed: tuple[int, int] | None  # names of the list that the dataset has, names in the list
    include_labeled: bool
    labeled: RowNumbers
    val: RowNumbers
    class_counts: tuple[int, ...]  # labeled rows per class
    num_unlabeled: int

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_text(path, self.model_dump_json() + "\n")

    @classmethod
    def read(cls, path: Path, prepared: Prepared) -> "Split":
        """Read the file and check it against the dataset.

        Raises:
            UserError: If it is missing, belongs to another dataset, or its sets overlap, leave
                the training rows or disagree with its counts.
        """
        again = "run `dvc repro split`"
        try:
            split = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): {again}.") from error
        except ValidationError as error:
            what = error.errors()[0]
            where = ".".join(map(str, what["loc"])) or "file"
            raise UserError(f"{path} is no split ({where}: {what['msg']}): {again}.") from error
        if mistake := split.mistake(prepared):
            raise UserError(f"{path}: {mistake}: {again}.")
        return split

    def mistake(self, prepared: Prepared) -> str | None:
        """Return what is wrong with this split of ``prepared``, or None."""
        if self.fingerprint != prepared.info.fingerprint:
            return f"made for dataset {self.fingerprint}, not {prepared.info.fingerprint}"
        labeled, val = _rows(self.labeled), _rows(self.val)
        for name, rows, allowed in (
            ("labeled", labeled, ["train"]),
            ("validation", val, ["train", "val"]),
        ):
            if len(rows) == 0:
                return f"no {name} rows"
            if (np.diff(rows) <= 0).any():
                return f"{name} rows are not sorted or not unique"
            if rows[-1] >= len(prepared.names):
                return f"{name} rows beyond the {len(prepared.names)} of the dataset"
            foreign = set(prepared.splits[rows].tolist()) - set(allowed)
            if foreign:
                return f"{name} rows from split {', '.join(sorted(foreign))}"
            if (prepared.labels[rows] < 0).any():
                return f"{name} rows without a label"
        if len(np.intersect1d(labeled, val)):
            return "labeled and validation rows overlap"
        counts = np.bincount(prepared.labels[labeled], minlength=prepared.info.num_classes)
        if self.class_counts != tuple(counts.tolist()):
            return "class_counts differ from the labeled rows"
        if self.num_unlabeled != len(self.unlabeled(prepared)):
            return "num_unlabeled differs from the unlabeled rows"
        return None

    def unlabeled(self, prepared: Prepared) -> Rows:
        """Return the rows to use without labels, ``[U]``: never validation or test rows.

        They include training images whose label was not chosen; include_labeled adds the chosen.
        """
        labeled = _rows(()) if self.include_labeled else _rows(self.labeled)
        return _without_labels(prepared, labeled, _rows(self.val))

    def check_unlabeled(self, method: str, per_step: int) -> None:
        """Check that there are unlabeled images if a method takes ``per_step`` of them.

        Raises:
            UserError: If not.
        """
        if per_step and not self.num_unlabeled:
            raise UserError(
                f"method={method} needs unlabeled images and the split leaves none; "
                "lower label_fraction or set data.include_labeled: true."
            )

    def test(self, prepared: Prepared) -> Rows:
        """Return the test rows."""
        return np.flatnonzero(prepared.splits == "test")


def make_split(
    prepared: Prepared,
    *,
    seed: int,
    label_fraction: float | None = None,
    num_labels: int | None = None,
    labeled_list: Path | None = None,
    val_fraction: float,
    include_labeled: bool,
) -> Split:
    """Choose validation and labeled rows; a function of the dataset's content and the seed.

    All training rows are put in one stratified order: the labeled rows are its head, the
    validation rows its tail. So with one seed a smaller labeled set lies inside each larger one,
    stays the same when val_fraction changes, and is the same for ``label_fraction`` and
    ``num_labels`` if their counts agree. Official "val" rows replace the tail if there are any.

    Args:
        prepared: The dataset.
        seed: Any integer.
        label_fraction: Share of all labeled training rows, in (0, 1]; at most those that remain
            after validation.
        num_labels: Number of labeled rows, at least one per class.
        labeled_list: File, plain or .gz, with one image name per line; see `match_names`. Its
            validation rows come from outside the list if that has enough rows.
        val_fraction: Share of the training rows to validate on.
        include_labeled: Whether labeled rows also serve as unlabeled ones.

    Raises:
        UserError: If not exactly one of the three is given, or if it asks for too few or too many.
    """
    if (num_set := 3 - (label_fraction, num_labels, labeled_list).count(None)) != 1:
        raise UserError(
            f"{num_set} of label_fraction, num_labels, data.labeled_list are set; set exactly one."
        )
    info = prepared.info
    train = np.flatnonzero(prepared.splits == "train")
    official_val = np.flatnonzero(prepared.splits == "val")
    num_val = 0
    if not len(official_val):
        num_val = held_out_count(len(train), val_fraction, info.num_classes, "data.val_fraction")
    rank = _uniform(len(prepared.names), info.fingerprint, seed)
    listed = source = None
    if labeled_list is not None:
        named, listed, source = match_names(labeled_list, prepared, train)
        others = np.setdiff1d(train, named)
        pool = others if len(others) >= num_val else train
        val = pool[stratified_order(prepared.labels[pool], rank[pool])][len(pool) - num_val :]
        labeled = np.setdiff1d(named, val)
        if not len(labeled):
            raise UserError("validation took all listed images; lower data.val_fraction.")
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
    hidden = _without_labels(prepared, _rows(()) if include_labeled else labeled, val)
    counts = np.bincount(prepared.labels[labeled], minlength=info.num_classes)
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
        class_counts=tuple(counts.tolist()),
        num_unlabeled=len(hidden),
    )


def _without_labels(prepared: Prepared, labeled: Rows, val: Rows) -> Rows:
    usable = (prepared.splits == "train") | (prepared.splits == "unlabeled")
    usable[labeled] = False
    usable[val] = False
    return np.flatnonzero(usable)


def _rows(numbers: Iterable[int]) -> Rows:
    return np.fromiter(numbers, dtype=np.int64)


def _uniform(n: int, *key: int | str) -> NDArray[np.float64]:
    """Return draws ``[n]`` that depend on ``key`` only."""
    seed = int.from_bytes(hashlib.sha256(repr(("split", *key)).encode()).digest(), "little")
    return np.random.Generator(np.random.PCG64(seed)).random(n)
