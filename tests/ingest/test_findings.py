"""What prepare finds out of a dataset, as data."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import SMALL, data_config, noise
from PIL import Image

from semimae.ingest.findings import Depth, Findings, Some
from semimae.ingest.prepare import prepare
from semimae.types import UserError

Tree = Callable[..., Path]


def findings(root: Path, dataset: str = "imagefolder", **changes: Any) -> Findings:
    out = root.parent / "out"
    prepare(dataset, data_config(**changes), root, out)
    return Findings.read(out)


def test_a_sound_dataset_has_nothing_odd(tree: Tree) -> None:
    found = findings(tree(*SMALL, "unlabeled/1.png"))
    assert found.class_counts == {
        "train": (3, 3),
        "unlabeled": (0, 0),
        "val": (0, 0),
        "test": (3, 3),
    }
    assert found.sizes == ((8, 8), (8, 8), (8, 8))
    assert (found.num_smaller, found.depth, found.skipped, found.bad) == (0, None, {}, {})
    for name in ("tested_elsewhere", "two_classes", "repeated", "alike_classes", "alike_names"):
        assert getattr(found, name) == Some(count=0, first=())
    assert not (found_list := tree().parent / "out.skipped.csv").exists(), found_list


def test_sizes_are_those_of_the_files(tree: Tree) -> None:
    root = tree(*SMALL)
    for number, size in enumerate(((2, 3), (300, 2), (40, 30))):
        noise(90 + number, *size).save(root / f"train/a/new{number}.png")
    found = findings(root)
    assert found.sizes == ((2, 3), (8, 8), (40, 30))
    assert found.num_smaller == 2


def test_copies_are_told_apart_by_where_they_are(tree: Tree) -> None:
    root = tree(*SMALL, "unlabeled/1.png")
    for source, target in (
        ("train/a/0.png", "test/a/9.png"),
        ("train/a/0.png", "test/b/8.png"),
        ("train/a/1.png", "train/b/9.png"),
        ("train/b/1.png", "train/b/8.png"),
        ("train/b/2.png", "unlabeled/2.png"),  # harmless
    ):
        shutil.copy(root / source, root / target)
    found = findings(root)
    assert found.tested_elsewhere == Some(
        count=2, first=("test/a/9.png = train/a/0.png", "test/b/8.png = train/a/0.png")
    )
    assert found.two_classes.count == 2
    assert "train/a/1.png (a) = train/b/9.png (b)" in found.two_classes.first
    assert found.repeated.count == 3
    assert "train/b/8.png = train/b/1.png" in {
        " = ".join(sorted(pair.split(" = "), reverse=True)) for pair in found.repeated.first
    }


def test_names_that_only_people_or_disks_confuse(tree: Tree) -> None:
    accents = [unicodedata.normalize(form, "unlabeled/é.png") for form in ("NFC", "NFD")]
    root = tree(*SMALL, "train/A/1.png", "unlabeled/x.png", "unlabeled/X.png", *accents)
    found = findings(root)
    assert found.alike_classes == Some(count=1, first=("A / a",))
    assert found.alike_names.count == 3
    assert "unlabeled/X.png / unlabeled/x.png" in found.alike_names.first
    assert any(r"\\u0301" in ascii(text) for text in found.alike_names.first)


def test_so_do_labels_of_a_table(tree: Tree) -> None:
    root = tree(*(f"{i}.png" for i in range(8)))
    rows = [f"{i}.png,{label}" for i, label in enumerate(["cat", "Cat", "cat ", "dog"] * 2)]
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    found = findings(root, "csv", test_fraction=0.2)
    assert found.alike_classes == Some(count=1, first=("'Cat' / 'cat' / 'cat '",))


@pytest.mark.parametrize("brightest", [4095, 1023, 60000])
def test_the_largest_value_of_16_bits_is_noted(brightest: int, tree: Tree) -> None:
    root = tree(*SMALL)
    for number in range(5):
        values = np.full((8, 8), brightest - number, dtype=np.uint16)
        Image.fromarray(values).save(root / f"train/a/deep{number}.png")
    depth = Depth(count=5, largest=brightest, typical=brightest - 2)
    assert findings(root).depth == depth


def test_what_is_passed_over_is_counted_by_reason_and_listed_in_full(tree: Tree) -> None:
    root = tree(*SMALL)
    for number in range(5):
        (root / f"train/a/{number}.txt").write_text("a caption")
    (root / "train/b/.DS_Store").write_text("x")
    os.mkdir(root / "old")
    found = findings(root)
    assert found.skipped == {
        "not an image (.txt)": Some(
            count=5, first=("train/a/0.txt", "train/a/1.txt", "train/a/2.txt")
        ),
        "folder other than train/, val/, test/, unlabeled/": Some(count=1, first=("old/",)),
        "created by the operating system": Some(count=1, first=("train/b/.DS_Store",)),
    }
    listed = (root.parent / "out.skipped.csv").read_text().splitlines()
    assert len(listed) == 1 + 7
    assert "train/a/4.txt,not an image (.txt)" in listed


def test_a_note_beside_the_images_changes_nothing_that_training_depends_on(tree: Tree) -> None:
    root = tree(*SMALL)
    findings(root)
    out = root.parent / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (root / "train/a/notes.txt").write_text("seen")
    assert findings(root).skipped
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_bad_images_are_counted_by_reason(tree: Tree) -> None:
    root = tree(*SMALL)
    for name in ("train/a/x.png", "train/b/y.jpg"):
        (root / name).write_bytes(b"hello")
    found = findings(root, on_bad_image="skip")
    first = ("train/a/x.png", "train/b/y.jpg")
    assert found.bad == {"not an image of a known format": Some(count=2, first=first)}


def test_a_disk_that_goes_away_is_one_error(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(*SMALL)

    def read(path: str) -> bytes:
        if root.exists():
            shutil.rmtree(root)
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr("semimae.ingest.source._read_image", read)
    with pytest.raises(UserError, match=f"there is no folder {root}"):
        prepare("imagefolder", data_config(), root, root.parent / "out")


def test_without_findings_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc repro -f prepare"):
        Findings.read(tmp_path / "out")
