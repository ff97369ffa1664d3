import dataclasses
import gzip
import hashlib
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_helpers import in_memory

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.label_list import match_names
from semimae.types import UserError

NUM_IMAGENET = 1_281_167


def split_of(prepared: Prepared, path: Path, **changes: object) -> Split:
    chosen = {"seed": 0, "val_fraction": 0.01, "include_labeled": False, "labeled_list": path}
    return make_split(prepared, **(chosen | changes))


def small() -> Prepared:
    names = [f"train/{c}/{c}_{i}.JPEG" for c in "ab" for i in range(10)] + ["test/a/a_99.JPEG"]
    return in_memory([0] * 10 + [1] * 10 + [0], ["train"] * 20 + ["test"], names)


def listing(folder: Path, *names: str) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(names) + "\n")
    return path


# ImageNet's customary lists, on manifests of the full training set's size


@pytest.fixture(scope="module")
def imagenet(shared: Path) -> Prepared:
    """1,281,167 rows in 1,000 classes: the names of the 10% list, and made-up ones beside them."""
    listed = names_of(shared, 10)
    by_class: dict[str, list[str]] = {}
    for name in listed:
        by_class.setdefault(name.partition("_")[0], []).append(name)
    assert len(by_class) == 1000
    num_left = NUM_IMAGENET - len(listed)
    names, labels = [], []
    for label, (wnid, known) in enumerate(sorted(by_class.items())):
        made_up = num_left // 1000 + (label < num_left % 1000)
        rows = sorted(known + [f"{wnid}_x{i}.JPEG" for i in range(made_up)])
        names += [f"train/{wnid}/{name}" for name in rows]
        labels += [label] * len(rows)
    assert len(names) == NUM_IMAGENET
    return in_memory(labels, ["train"] * len(names), names)


def names_of(shared: Path, percent: int) -> list[str]:
    path = shared / f"data/imagenet_{percent}percent.txt.gz"
    return gzip.decompress(path.read_bytes()).decode().split()


@pytest.mark.parametrize(("percent", "count"), [(1, 12_811), (10, 128_116)])
def test_imagenets_lists(shared: Path, imagenet: Prepared, percent: int, count: int) -> None:
    split = split_of(imagenet, shared / f"data/imagenet_{percent}percent.txt.gz")
    found = [imagenet.names[row].rpartition("/")[2] for row in split.labeled]
    assert len(found) == count
    assert sorted(found) == sorted(names_of(shared, percent))
    assert split.listed == (count, count)
    expected = Counter(name.partition("_")[0] for name in names_of(shared, percent))
    assert split.class_counts == tuple(expected[wnid] for wnid in sorted(expected))
    assert len(split.val) == round(0.01 * NUM_IMAGENET)
    assert not set(split.val) & set(split.labeled)
    assert split.num_unlabeled == NUM_IMAGENET - len(split.val) - count
    assert split.mistake(imagenet) is None


def test_imagenets_one_percent_lies_in_its_ten_percent(shared: Path) -> None:
    assert set(names_of(shared, 1)) < set(names_of(shared, 10))


def test_a_partial_tree_gives_what_is_in_both(shared: Path, imagenet: Prepared) -> None:
    rows = np.arange(0, NUM_IMAGENET, 50)
    names = [imagenet.names[row] for row in rows]
    partial = in_memory(imagenet.labels[rows].tolist(), ["train"] * len(rows), names)
    split = split_of(partial, shared / "data/imagenet_10percent.txt.gz")
    listed = set(names_of(shared, 10))
    expected = {name for name in names if name.rpartition("/")[2] in listed}
    assert 2000 < len(expected) < 3000
    assert {names[row] for row in split.labeled} == expected
    assert split.listed == (len(expected), 128_116)


# rules

# Classes that number their images alike, in folders of folders, and a test set that does so too.
TWINS = [
    *(f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)),
    "train/big/cat/9.png",
    "train/cat/cat/0.png",
    "train/dog/only.png",
    "test/cat/0.png",
    "test/cat/t.png",
    "unlabeled/u.png",
]
ROOT = Path("/disk/images")


def named(folder: Path, *lines: str) -> tuple[set[str], tuple[int, int]]:
    labels = [int("dog" in name) for name in TWINS[:-1]] + [-1]
    splits = [name.partition("/")[0] for name in TWINS]
    prepared = dataclasses.replace(in_memory(labels, splits, TWINS), root=ROOT)
    train = np.flatnonzero(prepared.splits == "train")
    found = match_names(listing(folder, *lines), prepared, train)
    assert len(found.missing) == len(set(lines)) - found.found
    return {TWINS[row] for row in found.rows}, (found.found, len(found.missing))


@pytest.mark.parametrize(
    ("line", "image"),
    [
        ("train/cat/0.png", "train/cat/0.png"),
        ("train/dog/0.png", "train/dog/0.png"),
        ("dog/0.png", "train/dog/0.png"),
        ("./dog//0.png", "train/dog/0.png"),
        ("images/train/dog/1.png", "train/dog/1.png"),
        ("/other/disk/train/dog/1.png", "train/dog/1.png"),
        ("/disk/images/train/dog/1.png", "train/dog/1.png"),
        ("C:\\images\\train\\dog\\1.png", "train/dog/1.png"),
        ("dog\\1.png", "train/dog/1.png"),
        ("big/cat/9.png", "train/big/cat/9.png"),
        ("cat/9.png", "train/big/cat/9.png"),
        ("train/cat/cat/0.png", "train/cat/cat/0.png"),
        ("cat/cat/0.png", "train/cat/cat/0.png"),
        ("only.png", "train/dog/only.png"),
        # no such image, or none for training
        ("cat/only.png", None),
        ("dog/9.png", None),
        ("cat/20.png", None),
        ("Train/dog/1.png", None),
        ("og/1.png", None),
        ("/disk/images/dog/1.png", None),
        ("/dog/1.png/", None),
        ("test/cat/0.png", None),
        ("/disk/images/test/cat/0.png", None),
        ("cat/t.png", None),
        ("t.png", None),
        ("unlabeled/u.png", None),
        ("u.png", None),
    ],
)
def test_a_line_names_the_image_whose_path_it_ends_with_or_that_ends_with_it(
    line: str, image: str | None, tmp_path: Path
) -> None:
    expected = {"train/dog/3.png"} | ({image} if image else set())
    found = (2, 0) if image else (1, 1)
    assert named(tmp_path, "train/dog/3.png", line) == (expected, found)


@pytest.mark.parametrize("line", ["0.png", "cat/0.png"])
def test_a_line_that_may_mean_several_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is ambiguous: it may be train/cat/.* and train/"):
        named(tmp_path, line)


def test_of_names_that_a_line_ends_with_the_longest_counts(tmp_path: Path) -> None:
    names = ["cat/1.png", "train/cat/1.png", "x/train/cat/1.png"]
    prepared = in_memory([0, 1, 1], ["train"] * 3, names)
    for line, row in (("/d/train/cat/1.png", 1), ("/d/cat/1.png", 0), ("/x/train/cat/1.png", 2)):
        assert match_names(listing(tmp_path, line), prepared, np.arange(3)).rows.tolist() == [row]


def test_accents_match_in_either_form(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "train/a/café.png") for form in ("NFC", "NFD"))
    for name, line in ((composed, apart), (apart, composed)):
        prepared = in_memory([0, 1], ["train"] * 2, [name, "train/b/1.png"])
        assert match_names(listing(tmp_path, line), prepared, np.arange(2)).rows.tolist() == [0]
    both = in_memory([0, 1], ["train"] * 2, [composed, apart])
    assert match_names(listing(tmp_path, apart), both, np.arange(2)).rows.tolist() == [1]


def test_lines_that_name_nothing_are_counted_and_the_first_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split_of(small(), listing(tmp_path, "a_1.JPEG", "x.JPEG", "y.JPEG"), val_fraction=0.1)
    assert caplog.messages == [
        "labels.txt: 2 of 3 lines do not match a training image, first: x.JPEG"
    ]


def test_plain_and_gzipped_lists_give_the_same(tmp_path: Path) -> None:
    path = listing(tmp_path, "a_3.JPEG", "  b/b_7.JPEG ", "", "a_3.JPEG", "c_1.JPEG")
    split = split_of(small(), path, val_fraction=0.1)
    assert split.labeled == (3, 17)
    assert split.listed == (2, 3)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert split.labeled_list == f"labels.txt sha256:{digest[:12]}"
    (tmp_path / "labels.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    zipped = split_of(small(), tmp_path / "labels.txt.gz", val_fraction=0.1)
    assert zipped == split.model_copy(
        update={"labeled_list": f"labels.txt.gz sha256:{digest[:12]}"}
    )


def test_test_images_are_never_labeled(tmp_path: Path) -> None:
    split = split_of(small(), listing(tmp_path, "a_99.JPEG", "a_1.JPEG"), val_fraction=0.1)
    assert split.labeled == (1,)
    assert split.listed == (1, 2)


def test_validation_comes_from_outside_the_list_if_it_can(tmp_path: Path) -> None:
    names = [name.rpartition("/")[2] for name in small().names[:20]]
    for seed in range(5):
        most = split_of(small(), listing(tmp_path, *names[:18]), val_fraction=0.1, seed=seed)
        assert most.labeled == tuple(range(18))
        assert most.val == (18, 19)
    everything = split_of(small(), listing(tmp_path, *names), val_fraction=0.1)
    assert len(everything.val) == 2
    assert set(everything.labeled) == set(range(20)) - set(everything.val)
    assert everything.mistake(small()) is None


def test_refusals(tmp_path: Path) -> None:
    cases = {
        "matches no training image: it has 'x.JPEG', the dataset has 'train/a/a_0.JPEG'": [
            "x.JPEG"
        ],
        "matches no training image: it has 'nothing'": [],
        "matches no training image: it has 'one/a_1.JPEG'": ["one/a_1.JPEG", "two/a_1.JPEG"],
    }
    for expected, names in cases.items():
        with pytest.raises(UserError, match=expected):
            split_of(small(), listing(tmp_path, *names), val_fraction=0.1)
    twins = in_memory([0, 1, 0, 1], ["train"] * 4, ["a/1.png", "b/1.png", "a/2.png", "b/3.png"])
    with pytest.raises(UserError, match=r"1\.png is ambiguous"):
        split_of(twins, listing(tmp_path, "1.png"), val_fraction=0.1)
    assert split_of(twins, listing(tmp_path, "2.png"), val_fraction=0.1).labeled == (2,)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.txt", None),
        ("latin.txt", "é.png\n".encode("latin-1")),
        ("plain.txt.gz", b"a_1.JPEG\n"),
        ("half.txt.gz", gzip.compress(b"a_1.JPEG\n" * 1000, mtime=0)[:-20]),
    ],
)
def test_a_list_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"data\.labeled_list=.* cannot be read \("):
        split_of(small(), tmp_path / name)
