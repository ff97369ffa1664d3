"""What `prepare` found that a person should know, as data. No later stage depends on it."""

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
    """The number of items, and the first ones."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, items: Sequence[str]) -> Self:
        """Count the items and keep the first ones."""
        return cls(count=len(items), first=tuple(items[:_NAMED]))


class Depth(Frozen):
    """The images with more than 8 bits per channel."""

    count: int
    largest: int  # the largest value that occurs, 0 to 65535
    typical: int  # the median over images of their largest values


class Findings(Frozen):
    """``prepared.findings.json``, next to the output of ``prepare``.

    It is not part of that output: a text file among the images must not cause retraining.
    """

    class_counts: dict[str, tuple[int, ...]]  # labeled images per class, for each split
    sizes: tuple[tuple[int, int], ...]  # width and height: smallest, median, largest by area
    num_smaller: int  # images whose shorter side is less than the model's input size
    depth: Depth | None
    skipped: dict[str, Some]  # skipped files and folders, by reason
    bad: dict[str, Some]  # images that cannot be decoded, by reason
    tested_elsewhere: Some  # test images with a copy in another split: "NAME = NAME"
    two_classes: Some  # images with several labels: "NAME (CLASS) = NAME (CLASS)"
    repeated: Some  # copies of an image in the same split: "NAME = NAME"
    alike_classes: Some  # names that differ only in case, Unicode form or spaces: "A / B"
    alike_names: Some

    @classmethod
    def read(cls, out: Path) -> Self:
        """Read the findings that belong to a prepared folder.

        Raises:
            UserError: If they are missing or damaged.
        """
        path = beside(out, _FINDINGS)
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise UserError(f"{path} is missing or damaged: run `dvc repro -f prepare`.") from None


def beside(out: Path, name: str) -> Path:
    """Return the path of a file about a prepared folder, which lies next to the folder."""
    return out.with_name(f"{out.name}.{name}")


def skipped_list(out: Path) -> Path:
    """Return the path of the list of skipped files."""
    return beside(out, _SKIPPED)


def write_findings(out: Path, findings: Findings, source: Source) -> None:
    """Write the findings and, if files were skipped, the list of those."""
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
    """Return the findings about a dataset.

    Args:
        source: The dataset.
        checked: The result of decoding its images.
        names: Names of the ``N`` good images.
        labels: Their labels, ``[N]``.
        splits: Their splits, ``[N]``.
        digests: Hashes of their content, ``N``.
        image_size: The model's input size in pixels.
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
    """Return names, escaped if they differ in more than case, which may be invisible."""
    same = len({name.casefold() for name in names}) == 1
    return names if same else [ascii(name) for name in names]


def _by_reason(rows: Iterable[tuple[str, str]]) -> dict[str, Some]:
    """Group rows of path and reason by reason, most frequent first."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in rows:
        paths[reason].append(_text(path))
    order = sorted(paths, key=lambda reason: (-len(paths[reason]), reason))
    return {reason: Some.of(paths[reason]) for reason in order}


def _text(path: str) -> str:
    """Return a path as text, even if it is not valid UTF-8."""
    return path.encode(errors="backslashreplace").decode()
