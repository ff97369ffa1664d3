"""Fingerprint, and the choice of test rows."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import SMALL, data_config, manifest_rows, noise

from semimae.ingest.datasets import DATASETS
from semimae.ingest.prepare import prepare
from semimae.ingest.source import Source
from semimae.options.data import DataConfig
from semimae.types import UserError

Tree = Callable[..., Path]


# the fingerprint


def change_pixels(root: Path) -> None:
    noise(99).save(root / "train/a/0.png")


def change_name(root: Path) -> None:
    (root / "train/a/0.png").rename(root / "train/a/00.png")


def change_class(root: Path) -> None:
    (root / "train/a/0.png").rename(root / "train/b/a0.png")


def change_split(root: Path) -> None:
    (root / "train").rename(root / "kept")
    (root / "test").rename(root / "train")
    (root / "kept").rename(root / "test")


def add_image(root: Path) -> None:
    noise(99).save(root / "train/a/9.png")


def rename_class(root: Path) -> None:
    (root / "train/b").rename(root / "train/c")
    (root / "test/b").rename(root / "test/c")


CHANGES = [change_pixels, change_name, change_class, change_split, add_image, rename_class]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_fingerprint_changes_with(change: Callable, tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL)
    before = prepare("imagefolder", data_config(), root, tmp_path / "out")
    change(root)
    after = prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert before.fingerprint != after.fingerprint
    assert len(after.fingerprint) >= 16


def test_the_fingerprint_changes_with_labels_splits_and_class_order_alone(
    tree: Tree, tmp_path: Path, monkeypatch
) -> None:
    root = tree("1.png", "2.png", "3.png", "4.png")
    found = set()
    for third in ("3.png,b,test", "3.png,a,test", "3.png,b,val"):  # none changes the order of rows
        lines = ["path,label,split", "1.png,a,train", "2.png,b,train", third, "4.png,a,test", ""]
        (root / "manifest.csv").write_text("\n".join(lines))
        found.add(prepare("csv", data_config(), root, tmp_path / "out").fingerprint)
    csv_manifest = DATASETS["csv"]

    def reversed_classes(root: Path, config: DataConfig) -> Source:
        source = csv_manifest(root, config)
        labels = [1 - label for label in source.labels]
        return replace(source, class_names=source.class_names[::-1], labels=labels)

    monkeypatch.setitem(DATASETS, "csv", reversed_classes)
    found.add(prepare("csv", data_config(), root, tmp_path / "out").fingerprint)
    assert len(found) == 4


def test_the_fingerprint_is_that_of_the_images_not_of_their_packing(
    tree: Tree, tmp_path: Path
) -> None:
    root = tree(*SMALL)
    configs = [data_config(), data_config(image_size=16, channels=1), data_config(pack_max_side=0)]
    infos = [prepare("imagefolder", config, root, tmp_path / "out") for config in configs]
    assert len({info.fingerprint for info in infos}) == 1


# holding out a test set


def held_out(folder: Path) -> set[str]:
    """SHA-256 of the content of the test images, which names no file."""
    rows = manifest_rows(folder)
    return {
        hashlib.sha256((folder.parent / "root" / path).read_bytes()).hexdigest()
        for path, _, split in rows
        if split == "test"
    }


def test_held_out_images_are_stratified_and_follow_from_content(tree: Tree, tmp_path: Path) -> None:
    names = [f"train/{c}/{i}.png" for c in "abc" for i in range({"a": 40, "b": 20, "c": 10}[c])]
    root = tree(*names)
    info = prepare("imagefolder", data_config(test_fraction=0.2), root, tmp_path / "out")
    assert info.counts == {"train": 56, "unlabeled": 0, "val": 0, "test": 14}
    tested = Counter(
        label for _, label, split in manifest_rows(tmp_path / "out") if split == "test"
    )
    assert tested == {"a": 8, "b": 4, "c": 2}
    before = held_out(tmp_path / "out")
    for name in names:  # other names, in another order
        path = root / name
        path.rename(path.with_name(f"{hashlib.md5(name.encode()).hexdigest()}.png"))
    prepare("imagefolder", data_config(test_fraction=0.2), root, tmp_path / "out")
    assert held_out(tmp_path / "out") == before


def test_official_test_images_are_left_alone(tree: Tree, tmp_path: Path) -> None:
    info = prepare("imagefolder", data_config(test_fraction=0.5), tree(*SMALL), tmp_path / "out")
    assert (info.counts["train"], info.counts["test"]) == (6, 6)


def test_holding_out_must_leave_each_class_an_image(tree: Tree, tmp_path: Path) -> None:
    root = tree("train/a/1.png", "train/a/2.png", "train/b/1.png")
    info = prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert info.counts["test"] == 1
    (root / "train/a/2.png").unlink()
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.25 holds out 1 of 2 .* 2 classes"):
        prepare("imagefolder", data_config(), root, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_duplicates_between_test_and_the_rest_are_counted(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL, "unlabeled/u.png")
    shutil.copy(root / "train/a/0.png", root / "test/a/copy1.png")
    shutil.copy(root / "train/a/0.png", root / "test/b/copy2.png")
    shutil.copy(root / "unlabeled/u.png", root / "test/b/copy3.png")
    shutil.copy(root / "train/a/1.png", root / "train/b/within.png")
    shutil.copy(root / "test/a/1.png", root / "test/b/within.png")
    info = prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert info.duplicates_test_train == 3
