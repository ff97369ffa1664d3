import gzip
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_helpers import in_memory

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
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


def test_plain_and_gzipped_lists_give_the_same(tmp_path: Path) -> None:
    path = listing(tmp_path, "a_3.JPEG", "  elsewhere/b_7.JPEG ", "", "a_3.JPEG", "c_1.JPEG")
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
        "names no training image: it has 'x.JPEG', the dataset has 'train/a/a_0.JPEG'": ["x.JPEG"],
        "names no training image: it has 'nothing'": [],
        "a_1.JPEG is ambiguous": ["one/a_1.JPEG", "two/a_1.JPEG"],
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
