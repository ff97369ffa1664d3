"""What `prepare` found out that a person should know, as data: it decides no later stage."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from semimae.files import write_csv, write_text
from semimae.ingest.layout import plain_form
from semimae.ingest.scan import Checked
from semimae.ingest.source import SPLITS, Source
from semimae.types import Frozen, UserError

_NAMED = 3  # examples that are kept of each finding
_FINDINGS, _SKIPPED = "findings.json", "skipped.csv"


class Some(Frozen):
    """How many there are, and the first of them."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, items: Sequence[str]) -> Self:
        """Count and name."""
        return cls(count=len(items), first=tuple(items[:_NAMED]))


class Depth(Frozen):
    """Of the images with more than 8 bits per channel."""

    count: int
    largest: int  # value that occurs, 0 to 65535
    typical: int  # median over the images of their largest values


class Findings(Frozen):
    """``prepared.findings.json``, beside what ``prepare`` wrote.

    It is no part of it: a note that someone puts beside the images must not train anything again.
    """

    class_counts: dict[str, tuple[int, ...]]  # of each split, labeled images per class
    sizes: tuple[tuple[int, int], ...]  # width and height: smallest, middle, largest by area
    num_smaller: int  # images whose shorter side is less than the model sees
    depth: Depth | None
    skipped: dict[str, Some]  # by reason: files and folders that were passed over
    bad: dict[str, Some]  # by reason: images that cannot be decoded
    tested_elsewhere: Some  # test images whose content is in another split: "NAME = NAME"
    two_classes: Some  # contents with several labels: "NAME (CLASS) = NAME (CLASS)"
    repeated: Some  # images whose content is in the same split before: "NAME = NAME"
    alike_classes: Some  # names that differ in case, Unicode form or spaces alone: "A / B"
    alike_names: Some

    @classmethod
    def read(cls, out: Path) -> Self:
        """Read the findings that belong to a prepared folder.

        Raises:
            UserError: If there are none.
        """
        path = beside(out, _FINDINGS)
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise UserError(f"{path} is missing or damaged: run `dvc repro -f prepare`.") from None


def beside(out: Path, name: str) -> Path:
    """Return the path of a file that tells of a prepared folder and lies beside it."""
    return out.with_name(f"{out.name}.{name}")


def skipped_list(out: Path) -> Path:
    """Return the path of the list of all that was passed over."""
    return beside(out, _SKIPPED)


def write_findings(out: Path, findings: Findings, source: Source) -> None:
    """Write the findings, and all that was passed over if there is any."""
    write_text(beside(out, _FINDINGS), findings.model_dump_json(indent=1) + "\n")
    if source.skipped:
        rows = [(_text(skip.path), skip.reason) for skip in sorted(source.skipped)]
        write_csv(skipped_list(out), ["path", "reason"], rows)
    else:
        skipped_list(out).unlink(missing_ok=True)


def find(
    source: Source,
    checked: Checked,
    *,
    names: list[str],
    labels: NDArray[np.int64],
    splits: NDArray[np.str_],
    digests: list[bytes],
    image_size: int,
) -> Findings:
    """Return what is to be said of a dataset.

    Args:
        source: What was read.
        checked: What came of it.
        names: Of the good images, ``N``.
        labels: Theirs, ``[N]``.
        splits: Theirs, ``[N]``.
        digests: Of their content, ``N``.
        image_size: What the model sees.
    """
    classes = source.class_names
    texts = [f"{name} ({classes[i]})" for name, i in zip(names, labels.tolist(), strict=True)]
    equal = _groups(digests)
    test = splits == "test"
    elsewhere, two, repeated = [], [], []
    for rows in equal:
        others = [row for row in rows if not test[row]]
        elsewhere += [f"{names[row]} = {names[others[0]]}" for row in rows if test[row] and others]
        by_class = {int(labels[row]): row for row in reversed(rows) if labels[row] >= 0}
        if len(by_class) > 1:
            two.append(" = ".join(texts[row] for row in sorted(by_class.values())[:2]))
        first: dict[str, int] = {}
        for row in rows:
            before = first.setdefault(str(splits[row]), row)
            repeated += [f"{names[row]} = {names[before]}"] if before != row else []
    by_area = checked.sizes[np.argsort(checked.sizes.astype(np.int64).prod(axis=1), kind="stable")]
    places = (0, len(by_area) // 2, len(by_area) - 1)
    deep = checked.levels[checked.levels >= 0]
    return Findings(
        class_counts={
            split: tuple(
                np.bincount(
                    labels[(splits == split) & (labels >= 0)], minlength=len(classes)
                ).tolist()
            )
            for split in SPLITS
        },
        sizes=tuple((int(by_area[i, 0]), int(by_area[i, 1])) for i in places),
        num_smaller=int((checked.sizes.min(axis=1) < image_size).sum()),
        depth=Depth(count=len(deep), largest=int(deep.max()), typical=int(np.median(deep)))
        if len(deep)
        else None,
        skipped=_by_reason(sorted(source.skipped)),
        bad=_by_reason(checked.bad),
        tested_elsewhere=Some.of(sorted(elsewhere)),
        two_classes=Some.of(sorted(two)),
        repeated=Some.of(sorted(repeated)),
        alike_classes=_alike(classes),
        alike_names=_alike(names),
    )


def _groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Return the places of keys that occur more than once, per key."""
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return [group for group in places.values() if len(group) > 1]


def _alike(names: Sequence[str]) -> Some:
    groups = _groups(plain_form(name) for name in names)
    return Some.of([" / ".join(_told_apart([names[i] for i in group])) for group in groups])


def _told_apart(names: list[str]) -> list[str]:
    """Return names with escapes where they differ in more than case, which cannot be seen."""
    same = len({name.casefold() for name in names}) == 1
    return names if same else [ascii(name) for name in names]


def _by_reason(rows: Iterable[tuple[str, str]]) -> dict[str, Some]:
    """Return rows of path and reason by reason, the most frequent ones first."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in rows:
        paths[reason].append(_text(path))
    order = sorted(paths, key=lambda reason: (-len(paths[reason]), reason))
    return {reason: Some.of(paths[reason]) for reason in order}


def _text(path: str) -> str:
    """Return a path as text, also where its name is no UTF-8."""
    return path.encode(errors="backslashreplace").decode()
