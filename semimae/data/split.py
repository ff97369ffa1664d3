"""The split of one run: which images have a label and which are for validation."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from semimae.data.store import Prepared, Rows
from semimae.files import write_text
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
    # Parts of the labeled rows that are held out for validation, each in a training of its own; the
    # last training holds nothing out, and val is empty.
    folds: tuple[RowNumbers, ...] = ()

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
            raise UserError(
                f"{path} is not a valid split ({where}: {what['msg']}): {again}."
            ) from error
        if mistake := split.mistake(prepared):
            raise UserError(f"{path}: {mistake}: {again}.")
        return split

    def mistake(self, prepared: Prepared) -> str | None:
        """Return what is wrong with this split of ``prepared``, or None."""
        if self.fingerprint != prepared.info.fingerprint:
            return f"made for dataset {self.fingerprint}, not {prepared.info.fingerprint}"
        labeled, val = as_rows(self.labeled), as_rows(self.val)
        held_out = np.sort(as_rows(itertools.chain.from_iterable(self.folds)))
        with_val = ["train", "val"]
        for name, rows, allowed in (
            ("labeled", labeled, with_val if self.folds else ["train"]),
            ("validation", held_out if self.folds else val, with_val),
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
        if self.folds and (len(val) or len(np.setdiff1d(held_out, labeled))):
            return "folds are not parts of the labeled rows alone"
        if self.class_counts != count_classes(prepared, labeled):
            return "class_counts differ from the labeled rows"
        if self.num_unlabeled != len(self.unlabeled(prepared)):
            return "num_unlabeled differs from the unlabeled rows"
        return None

    def unlabeled(self, prepared: Prepared) -> Rows:
        """Return the rows to use without labels, ``[U]``: never validation or test rows.

        They include training images whose label was not chosen; include_labeled adds the chosen.
        """
        labeled = as_rows(()) if self.include_labeled else as_rows(self.labeled)
        return without_labels(prepared, labeled, as_rows(self.val))

    def without_fold(self, number: int, prepared: Prepared) -> "Split":
        """Return the split of the training that holds out one of the folds."""
        val = as_rows(self.folds[number])
        labeled = np.setdiff1d(as_rows(self.labeled), val)
        kept = as_rows(()) if self.include_labeled else labeled
        return self.model_copy(
            update={
                "labeled": tuple(labeled.tolist()),
                "val": tuple(val.tolist()),
                "class_counts": count_classes(prepared, labeled),
                "num_unlabeled": len(without_labels(prepared, kept, val)),
                "folds": (),
            }
        )

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


def without_labels(prepared: Prepared, labeled: Rows, val: Rows) -> Rows:
    """Return the rows ``[U]`` to use without labels, if these are labeled and for validation."""
    usable = (prepared.splits == "train") | (prepared.splits == "unlabeled")
    usable[labeled] = False
    usable[val] = False
    return np.flatnonzero(usable)


def count_classes(prepared: Prepared, rows: Rows) -> tuple[int, ...]:
    """Return how many of some rows each class has."""
    counts = np.bincount(prepared.labels[rows], minlength=prepared.info.num_classes)
    return tuple(counts.tolist())


def as_rows(numbers: Iterable[int]) -> Rows:
    """Return row numbers as an array."""
    return np.fromiter(numbers, dtype=np.int64)
