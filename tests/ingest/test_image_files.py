import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from data_helpers import load, refusal, write_images

from semimae.ingest.source import Source

Tree = Callable[..., Path]


def rows(source: Source) -> set[tuple[str, str, str]]:
    classes = [*source.class_names, ""]
    texts = [classes[label] for label in source.labels]
    return set(zip(source.names, texts, source.splits, strict=True))


# imagefolder


def test_imagefolder_with_all_four_folders(tree: Tree) -> None:
    names = ["train/cat/a.jpg", "train/cat/deep/er/b.PNG", "train/dog/c.jpeg", "val/dog/d.jpg"]
    root = tree(*names, "test/cat/e.jpg", "unlabeled/f.webp", "unlabeled/cat/g.jpg")
    source = load("imagefolder", root)
    assert rows(source) == {
        ("train/cat/a.jpg", "cat", "train"),
        ("train/cat/deep/er/b.PNG", "cat", "train"),
        ("train/dog/c.jpeg", "dog", "train"),
        ("val/dog/d.jpg", "dog", "val"),
        ("test/cat/e.jpg", "cat", "test"),
        ("unlabeled/f.webp", "", "unlabeled"),
        ("unlabeled/cat/g.jpg", "", "unlabeled"),
    }
    for i, name in enumerate(source.names):
        assert source.read_bytes(i) == (root / name).read_bytes()
        with source.open(i) as image:
            assert image.size == (8, 8)


@pytest.mark.parametrize("only", ["val", "test"])
def test_the_only_second_folder_is_the_test_set(tree: Tree, only: str) -> None:
    source = load("imagefolder", tree("train/a/1.png", "train/b/2.png", f"{only}/b/3.png"))
    assert (f"{only}/b/3.png", "b", "test") in rows(source)
    assert set(source.splits) == {"train", "test"}


def test_imagefolder_ignores_hidden_and_other_files(tree: Tree) -> None:
    root = tree("train/a/1.png", "train/b/2.png", "train/b/.hidden.png", "train/b/.dir/3.png")
    (root / "train/b/notes.txt").write_text("no image")
    (root / "train/.git").mkdir()
    (root / "train/labels.csv").write_text("beside the classes")
    assert {name for name, _, _ in rows(load("imagefolder", root))} == {
        "train/a/1.png",
        "train/b/2.png",
    }


def test_imagefolder_survives_link_loops_and_follows_linked_classes(tree: Tree) -> None:
    root = tree("train/a/1.png", "elsewhere/2.png")
    (root / "train/a/loop").symlink_to(root / "train", target_is_directory=True)
    (root / "train/b").symlink_to(root / "elsewhere", target_is_directory=True)
    source = load("imagefolder", root)
    assert rows(source) == {("train/a/1.png", "a", "train"), ("train/b/2.png", "b", "train")}


def test_numbered_class_folders_are_in_numerical_order(tree: Tree) -> None:
    assert load("imagefolder", tree("train/10/1.png", "train/9/2.png")).class_names == ["9", "10"]


def test_imagefolder_refusals(tree: Tree, tmp_path: Path) -> None:
    assert "no folder" in refusal("imagefolder", tmp_path / "absent")
    root = tree("train/a/1.png", "train/b/2.png", "test/c/3.png")
    assert "test/c is not a class" in refusal("imagefolder", root)
    (root / "test/c").rename(root / "test/a")
    (root / "val").mkdir()
    assert "val contains no images" in refusal("imagefolder", root)
    write_images(root, ["val/ILSVRC2012_val_00000001.JPEG"])  # ImageNet's val/ as it is shipped
    message = refusal("imagefolder", root)
    assert "1 images are not in a class folder" in message
    assert "ILSVRC2012_val_00000001.JPEG" in message


@pytest.mark.parametrize("name", [b"two\nlines.png", b"latin-\xe9.png"])
def test_names_that_no_list_can_hold_are_refused(tree: Tree, name: bytes) -> None:
    root = tree("train/a/1.png", "train/b/2.png")
    os.rename(root / "train/b/2.png", os.fsencode(root / "train/b") + b"/" + name)
    assert "rename it" in refusal("imagefolder", root)


def test_a_folder_that_cannot_be_listed_is_refused(tree: Tree, monkeypatch) -> None:
    root = tree("train/a/1.png", "train/b/locked/3.png")
    scandir = os.scandir

    def locked(path: str) -> object:  # by hand, as permissions do not stop root
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert "b/locked cannot be listed (Permission denied)" in refusal("imagefolder", root)


def test_imagefolder_reads_the_jpeg_form_of_cifar10(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data/cifar10-jpeg.tar.gz") as tar:
        members = (m for m in tar if m.isfile() and m.name.endswith(("0000.jpg", "0001.jpg")))
        tar.extractall(tmp_path, members, filter="data")
    source = load("imagefolder", tmp_path)
    assert source.class_names[::9] == ["airplane", "truck"]
    assert (source.splits.count("train"), source.splits.count("test")) == (20, 20)
    for i in range(40):
        with source.open(i) as image:
            assert image.size == (32, 32)


# csv


def manifest(root: Path, text: str | bytes) -> Path:
    content = text if isinstance(text, bytes) else text.encode()
    (root / "manifest.csv").write_bytes(content)
    return root


def test_csv_with_splits_and_without_labels(tree: Tree) -> None:
    root = tree("1.png", "2.png", "x/3.png", "4.png", "5.png", "6.png", "7.png")
    text = (
        "split,path,label\n,1.png,10\ntrain,2.png,9\ntrain,./x//3.png,\nunlabeled,4.png,9\n"
        'val,5.png,10\ntest,"6.png",9\n\nunlabeled,7.png,\n'
    )
    for content in (text, text.replace("\n", "\r\n"), b"\xef\xbb\xbf" + text.encode()):
        source = load("csv", manifest(root, content))
        assert source.class_names == ["9", "10"]
        assert rows(source) == {
            ("1.png", "10", "train"),
            ("2.png", "9", "train"),
            ("x/3.png", "", "unlabeled"),
            ("4.png", "9", "unlabeled"),
            ("5.png", "10", "val"),
            ("6.png", "9", "test"),
            ("7.png", "", "unlabeled"),
        }


def test_csv_may_have_another_name_and_no_split(tree: Tree) -> None:
    root = tree("1.png", "2.png")
    (root / "labels.csv").write_text("path,label\n1.png,b\n2.png,a\n")
    source = load("csv", root, manifest="labels.csv")
    assert rows(source) == {("1.png", "b", "train"), ("2.png", "a", "train")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label,weight\n", "columns path, label, weight; allowed: path, label"),
        ("path\n1.png\n", "columns path;"),
        ("path,label,label\n", "columns path, label, label;"),
        ("", "columns none;"),
        (
            "path,label\n1.png,a\n1.png,b\n",
            "line 3: path '1.png' is already listed in manifest.csv line 2",
        ),
        ("path,label\n1.png,a\nx/../1.png,b\n", "line 3: path '1.png' is already listed"),
        ("path,label\n/etc/hosts,a\n", "line 2: path '/etc/hosts'; give a path inside"),
        ("path,label\n,a\n", "line 2: path ''; give a path inside"),
        ("path,label\n../out.png,a\n", "line 2: path '../out.png' is outside of"),
        ("path,label\n1.png,a\nlink.png,a\n", "line 3: path 'link.png' is outside of"),
        ("path,label\n1.png,a\nabsent.png,a\n", "line 3: there is no file 'absent.png'"),
        ("path,label\n1.png,a\nfolder,a\n", "line 3: there is no file 'folder'"),
        ("path,label\n1.png\n", "line 2: expected 2 fields"),
        ("path,label\n1.png,a,train\n", "line 2: expected 2 fields"),
        ("path,label,split\n1.png,a,Train\n", "line 2: split 'Train'; allowed: train, unlabeled,"),
        ("path,label,split\n1.png,,val\n", "line 2: split val needs a label"),
        ("path,label,split\n1.png,,test\n", "line 2: split test needs a label"),
        ("path,label\n1.png,-1\n", "line 2: label -1; leave"),
        (b"path,label\n1.png,a\n\n" + "2.png,é\n".encode("latin-1"), "line 4 is not UTF-8"),
        ('path,label\n1.png,"a\n', "line 2: unexpected end of data"),
        ('path,label\n"1.png"x,a\n', "line 2: ',' expected"),
    ],
)
def test_csv_refusals_name_the_row(tree: Tree, tmp_path: Path, text: str, expected: str) -> None:
    root = tree("1.png", "folder/2.png", "../out.png")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    assert expected in refusal("csv", manifest(root, text))


def test_csv_without_manifest_or_root(tmp_path: Path) -> None:
    assert "no folder" in refusal("csv", tmp_path / "absent")
    assert "manifest.csv cannot be read" in refusal("csv", tmp_path)


def test_csv_in_a_linked_root_is_inside_it(tree: Tree, tmp_path: Path) -> None:
    root = manifest(tree("1.png"), "path,label\n1.png,a\n")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert load("csv", tmp_path / "link").names == ["1.png"]
