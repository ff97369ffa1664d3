"""One walker finds images and names what it passes over."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from data_helpers import noise

from semimae.ingest.walk import HIDDEN, LEFT_BEHIND, READ_ALREADY, Walker

Tree = Callable[..., Path]


def walked(root: Path, folder: str = "") -> tuple[list[str], dict[str, str]]:
    walker = Walker(str(root))
    return walker.images(folder), dict(walker.skipped)


def test_files_come_before_folders_and_links_come_last(tree: Tree) -> None:
    root = tree("b/2.png", "b/1.png", "a/deep/er/3.jpg", "z.png", "../outside/4.png")
    (root / "a_link").symlink_to(root / "../outside")
    assert walked(root) == (
        ["z.png", "a/deep/er/3.jpg", "b/1.png", "b/2.png", "a_link/4.png"],
        {},
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", "not an image (.txt)"),
        ("Thumbs.db", LEFT_BEHIND),
        ("desktop.ini", LEFT_BEHIND),
        (".DS_Store", LEFT_BEHIND),
        ("._1.png", LEFT_BEHIND),
        (".1.png", HIDDEN),
        ("photo.NEF", ".nef: raw photo; export it as JPEG or TIFF"),
        ("scan.dcm", ".dcm: unsupported image format; convert it"),
        ("film.mp4", ".mp4: video; save its frames as images"),
        ("more.zip", ".zip: archive; unpack it"),
        ("late.jpg.crdownload", ".crdownload: incomplete download"),
        ("README", "not an image (no common suffix)"),
        ("x.jpg?width=200", "not an image (no common suffix)"),
    ],
)
def test_a_file_that_is_no_image_is_named_with_the_reason(
    name: str, reason: str, tree: Tree
) -> None:
    root = tree("1.png")
    (root / name).write_bytes(b"P5 is no picture")
    assert walked(root) == (["1.png"], {name: reason})


@pytest.mark.parametrize(
    "name",
    ["__MACOSX", "@eaDir", ".ipynb_checkpoints", ".Trash-1000", "$RECYCLE.BIN", "lost+found"],
)
def test_folders_that_systems_leave_behind_are_passed_over_whole(name: str, tree: Tree) -> None:
    assert walked(tree("1.png", f"{name}/2.png")) == (["1.png"], {f"{name}/": LEFT_BEHIND})


def test_hidden_folders_are_passed_over_whole(tree: Tree) -> None:
    assert walked(tree("1.png", ".git/2.png")) == (["1.png"], {".git/": HIDDEN})


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("name", ["no_suffix", "a.jpg?width=200", "a.jpeg_large", "a.2024-05-01"])
def test_content_tells_an_image_where_the_name_does_not(
    name: str, form: str, tmp_path: Path
) -> None:
    noise(0, 40, 33).save(tmp_path / name, format=form)
    assert walked(tmp_path) == ([name], {})


def test_heic_under_any_name_counts_as_an_image_with_and_without_a_decoder(tmp_path: Path) -> None:
    for name in ("IMG_1", "IMG_2.HEIC", "IMG_3.jpg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    assert walked(tmp_path) == (["IMG_1", "IMG_2.HEIC", "IMG_3.jpg"], {})


def test_tiff_under_another_suffix_may_be_a_raw_photo(tmp_path: Path) -> None:
    for name in ("none", "own.tif", "slide.svs", "photo.3fr"):
        noise(0).save(tmp_path / name, format="TIFF")
    found, skipped = walked(tmp_path)
    assert found == ["none", "own.tif"]
    assert set(skipped) == {"slide.svs", "photo.3fr"}
    assert all("rename it to .tif if it is an image" in reason for reason in skipped.values())


def test_a_known_suffix_is_believed(tree: Tree) -> None:
    """What is wrong with such a file is found, and said, when it is decoded."""
    root = tree()
    (root / "broken.jpg").write_bytes(b"hello")
    (root / "gone.png").symlink_to("nowhere")
    os.mkfifo(root / "pipe.png")
    assert walked(root) == (["broken.jpg", "gone.png", "pipe.png"], {})


def test_pipes_and_links_without_a_suffix_are_never_opened(tree: Tree) -> None:
    root = tree("1.png")
    os.mkfifo(root / "pipe")
    (root / "gone").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    found, skipped = walked(root)
    assert found == ["1.png"]
    assert skipped == {
        "gone": "broken link",
        "pipe": "not a regular file",
        "self": "broken link",
    }


def test_each_folder_is_read_once_whatever_links_there_are(tree: Tree) -> None:
    root = tree("x/1.png", "x/y/2.png", "../outside/3.png", "../outside/back/4.png")
    (root / "x/y/up").symlink_to(root / "x")
    (root / "a").symlink_to(root / "x/y")  # before x by name, but x keeps its images
    (root / "self").symlink_to(root)
    (root / "out").symlink_to(root / "../outside")
    (root / "out_again").symlink_to(root / "../outside")
    (root / "../outside/home").symlink_to(root)
    found, skipped = walked(root)
    assert found == ["x/1.png", "x/y/2.png", "out/3.png", "out/back/4.png"]
    assert skipped == dict.fromkeys(
        ["a/", "self/", "out_again/", "x/y/up/", "out/home/"], READ_ALREADY
    )


def test_a_link_does_not_take_what_is_reserved(tree: Tree) -> None:
    root = tree("cat/1.png", "dog/2.png")
    (root / "cat/more").symlink_to(root / "dog")
    walker = Walker(str(root))
    walker.reserve(["cat", "dog"])
    assert walker.images("cat") == ["cat/1.png"]
    assert walker.images("dog") == ["dog/2.png"]
    assert walker.skipped == [("cat/more/", READ_ALREADY)]
