import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_helpers import in_memory
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.types import UserError


def dataset(num_classes: int = 4, train: int = 100, extra: int = 10, val: int = 0) -> Prepared:
    """``train`` rows per class, then ``extra`` unlabeled, validation and test rows."""
    classes = list(range(num_classes))
    labels = classes * train + [-1] * extra + classes * val + classes * 5
    splits = ["train"] * num_classes * train + ["unlabeled"] * extra
    splits += ["val"] * num_classes * val + ["test"] * num_classes * 5
    return in_memory(labels, splits)


def split_of(prepared: Prepared, **changes: object) -> Split:
    chosen = {"seed": 0, "val_fraction": 0.1, "include_labeled": True}
    if not {"label_fraction", "num_labels", "labeled_list"} & set(changes):
        chosen["label_fraction"] = 0.1
    return make_split(prepared, **(chosen | changes))


def refusal(prepared: Prepared, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        split_of(prepared, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


# choosing


def test_counts_and_disjointness() -> None:
    prepared = dataset()
    split = split_of(prepared, label_fraction=0.1)
    assert (len(split.val), len(split.labeled)) == (40, 40)  # a tenth of all 400, not of the rest
    assert split.class_counts == (10, 10, 10, 10)
    assert Counter(prepared.labels[list(split.val)].tolist()) == dict.fromkeys(range(4), 10)
    assert not set(split.val) & set(split.labeled)
    assert set(prepared.splits[list(split.val + split.labeled)].tolist()) == {"train"}
    assert split.labeled == tuple(sorted(split.labeled))
    assert split.mistake(prepared) is None


def test_unlabeled_rows_are_all_training_rows_but_validation() -> None:
    prepared = dataset()
    for include in (True, False):
        split = split_of(prepared, include_labeled=include)
        expected = set(np.flatnonzero(np.isin(prepared.splits, ["train", "unlabeled"])).tolist())
        expected -= set(split.val) if include else set(split.val) | set(split.labeled)
        assert set(split.unlabeled(prepared).tolist()) == expected
        assert split.num_unlabeled == len(expected)
    assert split.test(prepared).tolist() == list(range(410, 430))


def test_the_official_validation_set_is_used() -> None:
    prepared = dataset(val=3)
    split = split_of(prepared, label_fraction=1.0, val_fraction=0.5)
    assert split.val == tuple(range(410, 422))
    assert len(split.labeled) == 400
    assert split.mistake(prepared) is None


def test_a_fraction_of_one_is_every_training_row_that_remains() -> None:
    prepared = dataset()
    split = split_of(prepared, label_fraction=1.0, include_labeled=False)
    assert set(split.labeled) | set(split.val) == set(range(400))
    assert split.unlabeled(prepared).tolist() == list(range(400, 410))
    nearly = split_of(prepared, label_fraction=0.95, include_labeled=False)  # 380 of the 360
    assert nearly.labeled == split.labeled


@pytest.mark.parametrize("val_fraction", [0.02, 0.1, 0.5])
def test_a_fraction_labels_the_same_rows_whatever_is_held_out(val_fraction: float) -> None:
    prepared = dataset()
    split = split_of(prepared, label_fraction=0.1, val_fraction=val_fraction)
    assert split.labeled == split_of(prepared, num_labels=40).labeled


def test_the_split_depends_on_content_and_seed_only() -> None:
    prepared = dataset()
    first = split_of(prepared)
    random.seed(1)
    np.random.default_rng(1)
    assert split_of(prepared) == first
    other_seed = split_of(prepared, seed=1)
    assert other_seed.labeled != first.labeled
    assert other_seed.val != first.val
    info = prepared.info.model_copy(update={"fingerprint": "e" * 32})
    other = Prepared(info, prepared.names, prepared.labels, prepared.splits, None)
    assert split_of(other).labeled != first.labeled


def test_the_split_is_the_same_on_every_machine() -> None:
    split = split_of(dataset(num_classes=3, train=8), num_labels=5)
    assert (split.labeled, split.val) == ((3, 10, 15, 16, 20), (2, 19))


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=6),
    st.integers(0, 5),
    st.floats(0.02, 0.3),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_smaller_sets_are_inside_larger_ones(
    sizes: list[int], seed: int, val_fraction: float, data: st.DataObject
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    prepared = in_memory(labels, ["train"] * len(labels))
    num_val = max(1, round(val_fraction * len(labels)))
    assume(len(labels) - num_val >= len(sizes))
    counts = st.integers(len(sizes), len(labels) - num_val)
    few, many = sorted([data.draw(counts), data.draw(counts)])
    small, large = (
        split_of(prepared, seed=seed, num_labels=k, val_fraction=val_fraction) for k in (few, many)
    )
    assert set(small.labeled) <= set(large.labeled)
    assert small.val == large.val
    assert (len(small.labeled), len(large.labeled)) == (few, many)
    assert min(small.class_counts) >= 1
    assert sum(small.class_counts) == few
    same = split_of(
        prepared, seed=seed, label_fraction=few / len(labels), val_fraction=val_fraction
    )
    assert same.labeled == small.labeled
    wider = split_of(prepared, seed=seed, num_labels=len(sizes), val_fraction=0.01)
    assert set(wider.labeled) <= set(small.labeled)  # validation does not move the labeled rows


def test_too_few_or_too_many_labels() -> None:
    prepared = dataset()
    allowed = "allowed: 4 (one per class; label_fraction 0.01) to 360 (all training images that"
    message = refusal(prepared, label_fraction=0.005)
    assert message.startswith(f"label_fraction=0.005 asks for 2 labels; {allowed} are not held")
    assert len(split_of(prepared, label_fraction=0.01).labeled) == 4
    assert refusal(prepared, num_labels=3).startswith(f"num_labels=3; {allowed}")
    assert refusal(prepared, num_labels=361).startswith(f"num_labels=361; {allowed}")
    assert refusal(prepared, label_fraction=1.5).startswith(
        f"label_fraction=1.5 asks for 600 labels; {allowed}"
    )
    assert "data.val_fraction=0.995 holds out 398 of 400" in refusal(prepared, val_fraction=0.995)


def test_the_smallest_fraction_that_is_named_is_enough() -> None:
    prepared = dataset(num_classes=3, train=7)  # 3 of 21 is 0.142857142...
    assert "label_fraction 0.142858)" in refusal(prepared, label_fraction=0.01)
    assert len(split_of(prepared, label_fraction=0.142858).labeled) == 3


def test_exactly_one_way_of_choosing() -> None:
    prepared = dataset()
    assert refusal(prepared, label_fraction=None).startswith("0 of label_fraction, num_labels,")
    assert refusal(prepared, label_fraction=0.1, num_labels=9).startswith("2 of label_fraction,")


# folds


@given(st.lists(st.integers(2, 30), min_size=2, max_size=6), st.integers(2, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_folds_divide_the_labeled_rows_evenly_in_each_class(
    sizes: list[int], folds: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    assume(folds <= len(labels))
    prepared = in_memory(labels, ["train"] * len(labels))
    split = split_of(prepared, seed=seed, label_fraction=1.0, folds=folds)
    assert split.mistake(prepared) is None
    assert sorted(row for fold in split.folds for row in fold) == list(range(len(labels)))
    assert (split.labeled, split.val) == (tuple(range(len(labels))), ())
    for rows in (range(len(labels)), *(np.flatnonzero(np.equal(labels, c)) for c in set(labels))):
        counts = [len(set(fold) & set(map(int, rows))) for fold in split.folds]
        assert max(counts) - min(counts) <= 1
    for number, fold in enumerate(split.folds):
        part = split.without_fold(number, prepared)
        assert part.mistake(prepared) is None
        assert part.val == fold
        assert set(part.labeled) == set(range(len(labels))) - set(fold)
        assert not set(part.unlabeled(prepared).tolist()) & set(fold)
        assert min(part.class_counts) >= 1


def test_folds_follow_the_seed_and_leave_the_labels_as_they_are() -> None:
    prepared = dataset()
    first, same, other = (split_of(prepared, folds=5, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first.folds != other.folds
    assert first.labeled == split_of(prepared).labeled
    without = split_of(prepared, folds=5, include_labeled=False)
    assert set(without.without_fold(0, prepared).unlabeled(prepared).tolist()).isdisjoint(
        without.labeled
    )


def test_validation_images_become_labeled_ones() -> None:
    for prepared in (dataset(), dataset(val=3)):
        plain, whole = split_of(prepared), split_of(prepared, refit=True)
        assert whole.mistake(prepared) is None
        assert (whole.folds, whole.val) == ((plain.val,), ())
        assert set(whole.labeled) == {*plain.labeled, *plain.val}
        assert whole.without_fold(0, prepared) == plain


def test_folds_that_cannot_be() -> None:
    assert refusal(dataset(val=3), folds=5).startswith(
        "data.folds=5 validates on the labeled images in turn, but this dataset has 12 validation"
    )
    few = in_memory([0, 0, 0, 1], ["train"] * 4)
    assert "class class1 has one labeled image" in refusal(few, label_fraction=1.0, folds=2)
    assert "there are 8 labeled images" in refusal(dataset(), num_labels=8, folds=9)


# the file


def test_write_and_read(tmp_path: Path) -> None:
    prepared = dataset()
    split = split_of(prepared)
    split.write(tmp_path / "runs/split.json")
    assert Split.read(tmp_path / "runs/split.json", prepared) == split
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["split.json"]


TAMPERING = {
    "another dataset": (lambda s: {"fingerprint": "0" * 32}, "made for dataset 0000"),
    "validation among the labeled": (
        lambda s: {"val": sorted(s["val"] + s["labeled"][:1])},
        "overlap",
    ),
    "test among the labeled": (
        lambda s: {"labeled": [*s["labeled"], 410]},
        "labeled rows from split test",
    ),
    "test among validation": (
        lambda s: {"val": [*s["val"], 411]},
        "validation rows from split test",
    ),
    "unlabeled among the labeled": (
        lambda s: {"labeled": [*s["labeled"], 401]},
        "labeled rows from split unlabeled",
    ),
    "beyond the end": (lambda s: {"labeled": [*s["labeled"], 430]}, "beyond the 430"),
    "negative": (
        lambda s: {"val": [-1, *s["val"]]},
        "val.0: Input should be greater than or equal",
    ),
    "huge": (lambda s: {"val": [*s["val"], 2**70]}, "Input should be less than"),
    "unsorted": (lambda s: {"labeled": s["labeled"][::-1]}, "not sorted"),
    "repeated": (lambda s: {"val": sorted([*s["val"], s["val"][0]])}, "not unique"),
    "class counts": (lambda s: {"class_counts": [11, 9, 10, 10]}, "class_counts"),
    "class counts of fewer classes": (lambda s: {"class_counts": [10, 10, 10]}, "class_counts"),
    "a labeled row dropped": (lambda s: {"labeled": s["labeled"][1:]}, "class_counts"),
    "unlabeled count": (lambda s: {"num_unlabeled": 1}, "num_unlabeled"),
    "include_labeled": (lambda s: {"include_labeled": False}, "num_unlabeled"),
    "no labeled": (lambda s: {"labeled": []}, "no labeled rows"),
    "no validation": (lambda s: {"val": []}, "no validation rows"),
    "wrong type": (lambda s: {"seed": "0"}, "seed: Input should be a valid integer"),
    "unknown field": (lambda s: {"color": 1}, "color: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_a_split_that_was_tampered_with_is_refused(tmp_path: Path, kind: str) -> None:
    prepared = dataset()
    path = tmp_path / "split.json"
    split_of(prepared).write(path)
    content = json.loads(path.read_text())
    change, expected = TAMPERING[kind]
    path.write_text(json.dumps(content | change(content)))
    with pytest.raises(UserError) as caught:
        Split.read(path, prepared)
    assert expected in str(caught.value)
    assert "run `dvc repro split`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_training_row_without_label_is_no_labeled_row() -> None:
    prepared = dataset()
    split = split_of(prepared)
    prepared.labels[split.labeled[0]] = -1
    assert split.mistake(prepared) == "labeled rows without a label"


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"])
def test_a_missing_or_broken_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "split.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="run `dvc repro split`"):
        Split.read(path, dataset())


def test_a_dataset_of_imagenets_size_is_split(tmp_path: Path) -> None:
    """What takes quadratic time would not end."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 1000, 1_281_167)).tolist()
    prepared = in_memory(labels, ["train"] * len(labels))
    split = split_of(prepared, label_fraction=0.1, val_fraction=0.01)
    assert (len(split.labeled), len(split.val)) == (128_117, 12_812)
    split.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json", prepared) == split
