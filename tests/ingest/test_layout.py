"""Folders that are not where they should be are named, with what to do."""

import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from data_helpers import load, refusal

Tree = Callable[..., Path]
SOUND = ["train/cat/1.png", "train/dog/2.png"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("unlabelled", "unlabeled"),
        ("Unlabeled", "unlabeled"),
        ("UNLABELLED", "unlabeled"),
        ("unlabeld", "unlabeled"),
        ("un-labeled", "unlabeled"),
        ("no labels", "unlabeled"),
        ("unlabeled_images", "unlabeled"),
        ("Test", "test"),
        ("tests", "test"),
        ("testing", "test"),
        ("test-set", "test"),
        ("tset", "test"),
        ("Val", "val"),
        ("valid", "val"),
        ("validation", "val"),
        ("val2017", "val"),
    ],
)
def test_a_folder_that_was_probably_meant_to_be_read_is_refused(
    name: str, meant: str, tree: Tree
) -> None:
    message = refusal("imagefolder", tree(*SOUND, f"{name}/cat/3.png"))
    assert f"{name} is not read: did you mean {meant}/?" in message
    assert "Rename it, or move it out" in message


@pytest.mark.parametrize("name", ["Train", "TRAIN", "training", "trian", "Train set", "labeled"])
def test_so_is_one_in_the_place_of_train(name: str, tree: Tree) -> None:
    message = refusal("imagefolder", tree(f"{name}/cat/1.png", f"{name}/dog/2.png"))
    assert f"{name} is not read: did you mean train/?" in message


def test_another_spelling_counts_also_beside_the_right_one(tree: Tree) -> None:
    root = tree(*SOUND, "unlabeled/3.png", "unlabelled/4.png")
    assert "did you mean unlabeled/?" in refusal("imagefolder", root)


@pytest.mark.parametrize("name", ["old", "raw", "brain", "labels", "train2", "backup of train"])
def test_other_folders_are_passed_over_and_named(name: str, tree: Tree) -> None:
    source = load("imagefolder", tree(*SOUND, f"{name}/cat/3.png", "loose.png"))
    assert sorted(source.names) == SOUND
    assert dict(source.skipped) == {
        f"{name}/": "folder other than train/, val/, test/, unlabeled/",
        "loose.png": "image outside of train/, val/, test/, unlabeled/",
    }


def test_classes_below_the_root_come_with_a_command_that_works(tree: Tree) -> None:
    root = tree("cat/1.png", "big dog/deep/2.png", "-x/3.png")
    (root / "notes").mkdir()
    (root / "notes/readme").write_text("no image")
    message = refusal("imagefolder", root)
    assert "-x/, big dog/, cat/" in message
    assert "expected: train/CLASS/IMAGES" in message
    subprocess.run(message.partition("Run: ")[2], shell=True, check=True)
    assert load("imagefolder", root).class_names == ["-x", "big dog", "cat"]


def test_so_do_many_classes(tree: Tree) -> None:
    root = tree(*(f"c{i:02}/{i}.png" for i in range(30)))
    message = refusal("imagefolder", root)
    assert "c00/, c01/, c02/ and 27 more are directly in it" in message
    subprocess.run(message.partition("Run: ")[2], shell=True, check=True)
    assert len(load("imagefolder", root).class_names) == 30


def test_where_train_lies_elsewhere_it_says_so(tree: Tree, tmp_path: Path) -> None:
    root = tree(*(f"photos/{name}" for name in SOUND))
    assert f"set data.root to {root / 'photos'}" in refusal("imagefolder", root)
    inner = root / "photos/train"
    assert f"set data.root to {root / 'photos'}" in refusal("imagefolder", inner)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "it contains nothing; expected: train/CLASS/IMAGES"),
        (["1.png", "2.png"], "2 images are directly in it"),
        (["test/cat/1.png"], "it contains test; expected"),
    ],
)
def test_without_train_the_wanted_layout_is_shown(names: list[str], said: str, tree: Tree) -> None:
    message = refusal("imagefolder", tree(*names))
    assert said in message
    assert "test/CLASS/, unlabeled/" in message


@pytest.mark.parametrize("dataset", ["imagefolder", "csv"])
def test_a_folder_that_is_gone_is_said_to_be_gone(dataset: str, tmp_path: Path) -> None:
    message = refusal(dataset, tmp_path / "absent")
    assert f"there is no folder {tmp_path / 'absent'}" in message
    assert "data.root" in message


@pytest.mark.parametrize(
    ("there", "here"),
    [("cat", "Cat"), ("café", unicodedata.normalize("NFD", "café")), ("cat", "cats")],
)
def test_a_class_of_another_spelling_comes_with_the_nearest(
    there: str, here: str, tree: Tree
) -> None:
    root = tree(f"train/{there}/1.png", "train/dog/2.png", f"test/{here}/3.png")
    assert f"did you mean {there!r}?" in refusal("imagefolder", root)


def test_links_of_classes_are_followed_once(tree: Tree) -> None:
    root = tree("train/cat/1.png", "train/dog/2.png", "../elsewhere/3.png")
    (root / "test").mkdir()
    (root / "test/cat").symlink_to(root / "../elsewhere")
    (root / "unlabeled").symlink_to(root / "../elsewhere")
    (root / "train/cat/all").symlink_to(root)
    source = load("imagefolder", root)
    assert sorted(source.names) == ["test/cat/3.png", "train/cat/1.png", "train/dog/2.png"]
    assert {path for path, _ in source.skipped} == {"train/cat/all/", "unlabeled/"}


def test_a_test_set_that_is_the_training_set_is_refused(tree: Tree) -> None:
    root = tree(*SOUND)
    (root / "test").symlink_to(root / "train")
    message = refusal("imagefolder", root)
    assert "test contains no images (test/" in message
    assert "link to a folder that is already read" in message


# csv


def listed(root: Path, text: str) -> Path:
    (root / "manifest.csv").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path;label\n1.png;a\n", "its fields are separated by semicolons: save it with commas"),
        ("path\tlabel\n1.png\ta\n", "its fields are separated by tabs: save it with commas"),
        ("Path,Label\n1.png,a\n", "write 'path' instead of 'Path', write 'label' instead of 'Lab"),
        (" path,label\n1.png,a\n", "write 'path' instead of ' path'"),
        ("filename,class\n1.png,a\n", "write 'path' instead of 'filename', write 'label' instead"),
        ("path,label,Split\n1.png,a,\n", "write 'split' instead of 'Split'"),
        ("path,label,split\n1.png,a,Train\n", "did you mean train?"),
        ("path,label,split\n1.png,a,tset\n", "did you mean test?"),
        ("path,label\nA.PNG,a\n", "but there is 'a.png'"),
        ("path,label\nx/café.png,a\n", "but there is"),
    ],
)
def test_what_is_nearly_right_in_a_table_gets_a_hint(text: str, said: str, tree: Tree) -> None:
    root = tree("1.png", "a.png", f"x/{unicodedata.normalize('NFD', 'café')}.png")
    assert said in refusal("csv", listed(root, text))


def test_a_missing_table_beside_folders_says_how_those_are_read(tree: Tree) -> None:
    assert "set dataset: imagefolder" in refusal("csv", tree(*SOUND))
