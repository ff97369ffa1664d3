import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import data_config, noise
from PIL import Image

from semimae.data.store import Prepared, resolve_root
from semimae.ingest.prepare import prepare
from semimae.types import UserError

NAMES = ["train/a/1.png", "train/b/2.png", "test/b/3.png", "unlabeled/4.png"]


@pytest.fixture
def folder(tree: Callable[..., Path], tmp_path: Path) -> Path:
    prepare("imagefolder", data_config(), tree(*NAMES), tmp_path / "prepared")
    return tmp_path / "prepared"


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Prepared.read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "run `dvc repro prepare`" in message
    return message


def test_read_gives_what_prepare_wrote(folder: Path) -> None:
    prepared = Prepared.read(folder)
    assert prepared.names == ["train/a/1.png", "train/b/2.png", "unlabeled/4.png", "test/b/3.png"]
    assert prepared.labels.dtype == np.int64
    assert prepared.labels.tolist() == [0, 1, -1, 1]
    assert prepared.splits.tolist() == ["train", "train", "unlabeled", "test"]
    assert prepared.info.class_names == ("a", "b")
    assert isinstance(prepared.images, np.memmap)  # large arrays are not read at once
    assert prepared.images.dtype == np.uint8
    assert prepared.images.shape == (4, 8, 8, 3)
    assert (prepared.pixels(2) == np.asarray(noise(3))).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_converted_as_prepare_does(
    tree: Callable[..., Path], tmp_path: Path, channels: int
) -> None:
    root = tree(*NAMES)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(9).convert("RGBA").save(root / "train/a/5.png", exif=exif)
    pictures = []
    for limit in (64, 0):
        config = data_config(channels=channels, pack_max_side=limit)
        prepare("imagefolder", config, root, tmp_path / "prepared")
        prepared = Prepared.read(tmp_path / "prepared", root)
        assert (prepared.images is None) == (limit == 0)
        pictures.append([prepared.pixels(i) for i in range(5)])
    for packed, unpacked in zip(*pictures, strict=True):
        assert packed.shape == (8, 8, channels)
        np.testing.assert_array_equal(packed, unpacked)


def test_pixels_keep_the_size_of_images_that_are_not_packed(
    tree: Callable[..., Path], tmp_path: Path
) -> None:
    root = tree(*NAMES)
    noise(9, 30, 20).save(root / "train/a/0.png")
    prepare("imagefolder", data_config(pack_max_side=0), root, tmp_path / "prepared")
    prepared = Prepared.read(tmp_path / "prepared", root)
    assert prepared.pixels(0).shape == (20, 30, 3)
    (root / "train/a/0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"train/a/0\.png in .* cannot be read any more"):
        prepared.pixels(0)


@pytest.mark.parametrize("cache_size", [None, 8])
def test_images_that_are_gone_are_said_to_be_gone_where_they_are_needed(
    cache_size: int | None, tree: Callable[..., Path], tmp_path: Path
) -> None:
    root = tree(*NAMES)
    config = data_config(pack_max_side=0, cache_size=cache_size)
    prepare("imagefolder", config, root, tmp_path / "prepared")
    prepared = Prepared.read(tmp_path / "prepared", root)
    root.rename(tmp_path / "elsewhere")
    if cache_size is not None:  # the copies are all that is read
        assert Prepared.read(tmp_path / "prepared", root).pixels(0).shape == (8, 8, 3)
        return
    with pytest.raises(UserError, match=f"the data folder {root} is gone; mount the disk"):
        Prepared.read(tmp_path / "prepared", root)
    with pytest.raises(UserError, match=f"the data folder {root} is gone"):
        prepared.pixels(0)


def test_a_missing_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "prepared").startswith("prepared/ is missing")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared/thesis.txt").write_text("not ours")
    assert refusal(tmp_path / "prepared").startswith("prepared/ is missing")


def edit_info(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shorten(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


DAMAGE = {
    "no JSON": lambda f: shorten(f / "dataset.json", 40),
    "newer format": lambda f: edit_info(f, format=2),
    "unknown field": lambda f: edit_info(f, color="red"),
    "no manifest": lambda f: (f / "manifest.csv").unlink(),
    "empty manifest": lambda f: shorten(f / "manifest.csv", 0),
    "header only": lambda f: shorten(f / "manifest.csv", len("path,label,split\n")),
    "half a row": lambda f: shorten(f / "manifest.csv", len("path,label,split\ntrain/a")),
    "rows missing": lambda f: shorten(f / "manifest.csv", 44),
    "other columns": lambda f: (f / "manifest.csv").write_text("path,split,label\n1.png,train,a\n"),
    "unknown class": lambda f: edit_info(f, class_names=["a", "c"]),
    "no images": lambda f: (f / "images.npy").unlink(),
    "empty images": lambda f: shorten(f / "images.npy", 0),
    "half the images": lambda f: shorten(f / "images.npy", 300),
    "images of another shape": lambda f: np.save(f / "images.npy", np.zeros((4, 8, 8, 1), "uint8")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_refused(folder: Path, kind: str) -> None:
    Prepared.read(folder)
    DAMAGE[kind](folder)
    assert refusal(folder).startswith("prepared/ is damaged")


def test_a_copied_folder_works_anywhere(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "other/place")
    assert Prepared.read(moved).info == Prepared.read(folder).info


def test_resolve_root(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("SEMIMAE_DATA", raising=False)
    assert resolve_root(None, tmp_path) == tmp_path / "data"
    monkeypatch.setenv("SEMIMAE_DATA", "/big/disk")
    assert resolve_root(None, tmp_path) == Path("/big/disk")
    assert resolve_root("mine", tmp_path) == tmp_path / "mine"
    assert resolve_root("/abs", tmp_path) == Path("/abs")
    monkeypatch.setenv("SEMIMAE_DATA", "")
    assert resolve_root(None, tmp_path) == tmp_path / "data"
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_root("~/images", tmp_path) == Path("/home/me/images")


def test_these_modules_start_without_torch() -> None:
    code = (
        "import sys, semimae.ingest.prepare, semimae.data.split\n"
        "sys.exit(', '.join({'torch', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
