"""What prepare prints on a terminal of 80 columns."""

from pathlib import Path
from typing import Any

import pytest
from data_helpers import in_memory

from pipeline.summary import summary
from semimae.data.store import DatasetInfo
from semimae.ingest.findings import Depth, Findings, Some

NONE = Some(count=0, first=())


def info(labels: list[int], splits: list[str], **changes: Any) -> DatasetInfo:
    return in_memory(labels, splits).info.model_copy(update=changes)


def found(**changes: Any) -> Findings:
    fields: dict[str, Any] = {
        "class_counts": {"train": (9, 9), "unlabeled": (0, 0), "val": (0, 0), "test": (9, 9)},
        "sizes": ((8, 8), (8, 8), (8, 8)),
        "num_smaller": 0,
        "depth": None,
        "skipped": {},
        "bad": {},
    }
    names = ("tested_elsewhere", "two_classes", "repeated", "alike_classes", "alike_names")
    return Findings(**(fields | dict.fromkeys(names, NONE) | changes))


PLAIN = info([0, 1] * 9 + [0, 1] * 9 + [-1] * 4, ["train"] * 18 + ["test"] * 18 + ["unlabeled"] * 4)


def test_a_sound_dataset_takes_few_lines() -> None:
    assert (
        summary(PLAIN, found(), Path("prepared"))
        == """memory: 40 images, 2 classes

                  train      test
  class0              9         9
  class1              9         9
  all labeled        18        18
  unlabeled           4

All are 8 x 8 pixels; the model sees 8 x 8."""
    )


def test_of_many_classes_the_smallest_and_the_largest_are_shown() -> None:
    counts = tuple(range(1000, 1100))
    many = info(list(range(100)), ["train"] * 100)
    given = dict.fromkeys(("unlabeled", "val", "test"), (1,) * 100)
    lines = summary(many, found(class_counts={"train": counts} | given), Path()).splitlines()
    table = lines[lines.index("") + 2 :]
    assert table[0].split() == ["class0", "1,000"]
    assert table[6].split() == ["...", "88", "more", "classes", "1,006-1,093"]
    assert table[12].split() == ["class99", "1,099"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": ((5, 7), (80, 64), (640, 480))}, "Pixels: 5 x 7 to 640 x 480, median"),
        ({"sizes": ((5, 7), (80, 64), (640, 480))}, "where details are 8 times smaller"),
        ({"num_smaller": 1}, "1 image is smaller than that and will be upscaled."),
        (
            {"class_counts": {"train": (4, 9), "test": (9, 9), "val": (0, 0), "unlabeled": (0, 0)}},
            "1 class has fewer than 5 labeled training images: class0 (4)",
        ),
        (
            {"class_counts": {"train": (9, 9), "test": (0, 9), "val": (0, 0), "unlabeled": (0, 0)}},
            "1 class without test images: class0",
        ),
        (
            {"tested_elsewhere": Some(count=5, first=("a = b", "c = d"))},
            "5 test images are also in another split, which inflates the scores: a = b, c = d, 3",
        ),
        ({"two_classes": Some(count=1, first=("a = b",))}, "1 image is in several classes"),
        ({"repeated": Some(count=1, first=("a = b",))}, "1 copy of an image in the same split"),
        (
            {"alike_classes": Some(count=1, first=("A / a",))},
            "Names of classes that differ only in",
        ),
        (
            {"alike_names": Some(count=1, first=("A / a",))},
            "Names of files that differ only in case,",
        ),
        (
            {"skipped": {"not an image (.txt)": Some(count=3, first=("a.txt", "b.txt"))}},
            "Skipped: 3 files and folders 3 not an image (.txt): a.txt, b.txt, 1 more "
            "prepared.skipped.csv lists all of them.",
        ),
        (
            {"bad": {"empty file": Some(count=1, first=("a.png",))}},
            "Left out: 1 image that cannot be read 1 empty file: a.png",
        ),
        (
            {"depth": Depth(count=3, largest=4094, typical=4000)},
            "3 images have more than 8 bits, but no value above 4,094 where 65,535 is white: at "
            "most 17 of 256 levels are left. Set data.white_level: 4095.",
        ),
        (
            {"depth": Depth(count=3, largest=65535, typical=1000)},
            "but half of them have no value above 1,000, the largest is 65,535, where 65,535 is "
            "white: at most 5 of 256 levels are left. Set data.white_level: 1023.",
        ),
    ],
)
def test_what_is_odd_is_said_with_what_to_do(changes: dict[str, Any], said: str) -> None:
    text = summary(PLAIN, found(**changes), Path("prepared"))
    assert said in " ".join(text.split())
    assert said not in " ".join(summary(PLAIN, found(), Path("prepared")).split())


@pytest.mark.parametrize(
    ("white", "depth", "said"),
    [
        (None, Depth(count=1, largest=60000, typical=50000), None),
        (4095, Depth(count=1, largest=4095, typical=4000), None),
        (4095, Depth(count=1, largest=5000, typical=4000), "values above data.white_level 4,095"),
        (4095, Depth(count=1, largest=900, typical=900), "Set data.white_level: 1023."),
    ],
)
def test_a_white_level_that_fits_is_not_spoken_of(
    white: int | None, depth: Depth, said: str | None
) -> None:
    level = PLAIN.model_copy(update={"white_level": white})
    text = summary(level, found(depth=depth), Path("prepared"))
    assert (said or "") in text
    assert ("bits" in text) == (said is not None)


def test_no_line_is_longer_than_the_terminal_and_none_commands_it() -> None:
    long = Some(count=10**6, first=("x" * 300, "\x1b[2J" * 40, "y y " * 99))
    reasons = {"r" * 60: long, "s" * 20: long, "\n": long}
    names = ("c" * 200, "d\x1b[2J")
    text = summary(
        PLAIN.model_copy(update={"class_names": names}),
        found(
            skipped=reasons,
            bad=reasons,
            tested_elsewhere=long,
            two_classes=long,
            repeated=long,
            alike_classes=long,
            alike_names=long,
            depth=Depth(count=10**6, largest=65535, typical=12345),
            sizes=((1, 1), (10**5, 10**5), (10**6, 10**6)),
        ),
        Path("prepared"),
    )
    assert max(map(len, text.splitlines())) < 80
    assert all(line.isprintable() for line in text.splitlines())
