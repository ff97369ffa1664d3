import csv
import hashlib
import json
import os
import shutil
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import data_config, noise, write_images
from PIL import Image
from sklearn.datasets import load_digits

from semimae.data.prepare import prepare
from semimae.data.scan import moments
from semimae.data.store import DatasetInfo, Prepared
from semimae.types import UserError

Tree = Callable[..., Path]
SMALL = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(3)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def manifest_rows(folder: Path) -> list[list[str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


# what is written


def test_digits_are_packed_and_measured(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    config = data_config(channels=1)
    info = prepare("digits", config, tmp_path, tmp_path / "out", lambda *call: calls.append(call))
    out = Prepared.read(tmp_path / "out")
    assert out.info == info
    assert info.counts == {"train": 1348, "unlabeled": 0, "val": 0, "test": 449}
    assert (info.num_classes, info.channels, info.packed, info.num_skipped) == (10, 1, True, 0)
    data = load_digits()
    rows = [int(name.split("/")[1]) for name in out.names]
    assert sorted(rows) == list(range(1797))
    assert (out.labels == data.target[rows]).all()
    assert out.images is not None
    assert np.abs(out.images[..., 0] / 255 - data.images[rows] / 16).max() < 0.5 / 255
    train = out.images[out.splits == "train"] / 255
    assert info.mean == pytest.approx([train.mean()])
    assert info.std == pytest.approx([train.std()])
    assert calls == [(i, 1797) for i in range(1, 1798)] * 2


def test_rows_are_sorted_by_split_and_name_and_pixels_follow_them(
    tree: Tree, tmp_path: Path
) -> None:
    names = ["train/b/10.png", "train/b/9.png", "train/a/z.png", "val/a/1.png", "test/b/2.png"]
    root = tree(*names, "unlabeled/x.png")
    prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert manifest_rows(tmp_path / "out") == [
        ["train/a/z.png", "a", "train"],
        ["train/b/10.png", "b", "train"],
        ["train/b/9.png", "b", "train"],
        ["unlabeled/x.png", "", "unlabeled"],
        ["val/a/1.png", "a", "val"],
        ["test/b/2.png", "b", "test"],
    ]
    out = Prepared.read(tmp_path / "out")
    assert out.images is not None
    for name, pixels in zip(out.names, out.images, strict=True):
        with Image.open(root / name) as image:
            assert (np.asarray(image) == pixels).all()
    assert out.info.counts == {"train": 3, "unlabeled": 1, "val": 1, "test": 1}


def test_mean_and_std_leave_validation_and_test_out(tree: Tree, tmp_path: Path) -> None:
    root = tree("train/a/1.png", "train/b/2.png", "unlabeled/3.png", "val/a/4.png", "test/a/5.png")
    measured = np.stack([np.asarray(noise(i)) for i in (0, 1, 2)]) / 255  # write_images' seeds
    for packed, limit in ((True, 64), (False, 0)):
        info = prepare("imagefolder", data_config(pack_max_side=limit), root, tmp_path / "out")
        assert info.packed is packed
        assert info.mean == pytest.approx(measured.mean(axis=(0, 1, 2)))
        assert info.std == pytest.approx(measured.std(axis=(0, 1, 2)))


def test_the_output_is_the_same_everywhere(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL, "unlabeled/u.png")
    (root / "train/a/broken.png").write_bytes(b"no image")
    prepare("imagefolder", data_config(on_bad_image="skip"), root, tmp_path / "out")
    moved = shutil.copytree(root, tmp_path / "elsewhere/moved")
    for path in sorted(moved.rglob("*.png"), reverse=True):  # other times, inodes and order
        path.write_bytes(path.read_bytes())
    config = data_config(on_bad_image="skip", workers=5)
    prepare("imagefolder", config, moved, tmp_path / "elsewhere/out2")
    first, second = contents(tmp_path / "out"), contents(tmp_path / "elsewhere/out2")
    assert first == second
    assert sorted(first) == ["bad_images.csv", "dataset.json", "images.npy", "manifest.csv"]
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_images_of_other_sizes_are_scaled_when_packed(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL)
    wide = noise(7, 48, 32)
    wide.save(root / "train/a/wide.png")
    info = prepare("imagefolder", data_config(image_size=16), root, tmp_path / "out")
    out = Prepared.read(tmp_path / "out")
    assert info.packed
    assert out.images is not None
    assert out.images.shape == (13, 16, 16, 3)
    square = wide.crop((8, 0, 40, 32)).resize((16, 16), Image.Resampling.BICUBIC)
    packed = out.images[out.names.index("train/a/wide.png")]
    assert np.abs(packed[:, 2:-2].astype(int) - np.asarray(square)[:, 2:-2]).max() <= 1


def test_one_image_over_the_limit_leaves_all_where_they_are(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL)
    noise(7, 4, 65).save(root / "test/a/long.png")
    info = prepare("imagefolder", data_config(pack_max_side=64), root, tmp_path / "out")
    assert not info.packed
    assert sorted(contents(tmp_path / "out")) == ["dataset.json", "manifest.csv"]
    assert prepare("imagefolder", data_config(pack_max_side=65), root, tmp_path / "out").packed


def test_moments_of_any_histogram() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (2, 5000))
    mean, std = moments(np.stack([np.bincount(v, minlength=256) for v in values]))
    assert mean == pytest.approx((values / 255).mean(axis=1))
    assert std == pytest.approx((values / 255).std(axis=1))


def test_the_manifest_can_be_prepared_again(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL, "train/10/x.png", "unlabeled/u.png")
    first = prepare("imagefolder", data_config(), root, tmp_path / "out")
    shutil.copy(tmp_path / "out/manifest.csv", root)
    second = prepare("csv", data_config(), root, tmp_path / "out2")
    assert second == first.model_copy(update={"name": "csv"})
    assert (tmp_path / "out2/manifest.csv").read_bytes() == (root / "manifest.csv").read_bytes()


def test_real_jpegs(shared: Path, tmp_path: Path) -> None:
    wanted = tuple(f"00{i:02}.jpg" for i in range(20))
    with tarfile.open(shared / "data/cifar10-jpeg.tar.gz") as tar:
        members = (m for m in tar if m.isfile() and m.name.endswith(wanted))
        tar.extractall(tmp_path / "root", members, filter="data")
    config = data_config(image_size=32)
    info = prepare("imagefolder", config, tmp_path / "root", tmp_path / "out")
    assert info.counts == {"train": 200, "unlabeled": 0, "val": 0, "test": 200}
    assert info.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.03)  # of the original CIFAR-10
    assert info.std == pytest.approx((0.247, 0.243, 0.262), abs=0.02)
    again = prepare("imagefolder", config, tmp_path / "root", tmp_path / "again")
    assert again == info
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


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
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.25 takes 1 of 2 .* 2 classes"):
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


# bad images


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    parts = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def spoiled(root: Path) -> dict[str, str]:
    """Write one file of each bad kind; return what must be said of each."""
    write_images(root, SMALL)
    good = (root / "train/a/0.png").read_bytes()
    noise(0, 64, 64).save(root / "whole.jpg")
    jpeg = (root / "whole.jpg").read_bytes()
    (root / "whole.jpg").unlink()
    files = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": good[:60],
        "empty.png": b"",
        "text.jpg": b"<html>404</html>",
        "flipped.png": good[:50] + bytes([good[50] ^ 255]) + good[51:],
        "bomb.png": bomb(9_600),  # 92 megapixels: Pillow only warns
        "big_bomb.png": bomb(60_000),  # Pillow refuses
    }
    for name, content in files.items():
        (root / "train/a" / name).write_bytes(content)
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(root / "train/b/float.tif")
    (root / "train/b/dangling.png").symlink_to("nowhere.png")
    return {
        "train/a/truncated.jpg": "truncated",
        "train/a/truncated.png": "",
        "train/a/empty.png": "empty file",
        "train/a/text.jpg": "not an image of a known format",
        "train/a/flipped.png": "",
        "train/a/bomb.png": "more than 89478485 pixels",
        "train/a/big_bomb.png": "more than 89478485 pixels",
        "train/b/float.tif": "float pixels",
        "train/b/dangling.png": "No such file",
    }


def test_bad_images_stop_it_and_all_are_named(tmp_path: Path) -> None:
    expected = spoiled(tmp_path / "root")
    with pytest.raises(UserError) as caught:
        prepare("imagefolder", data_config(), tmp_path / "root", tmp_path / "out")
    report = tmp_path / "out.bad_images.csv"
    message = str(caught.value)
    assert message.startswith("9 of 21 images cannot be read, first: train/a/big_bomb.png (more ")
    assert str(report) in message
    assert "data.on_bad_image: skip" in message
    assert "\n" not in message
    assert sorted(os.listdir(tmp_path)) == ["out.bad_images.csv", "root"]
    with report.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason"]
    assert [path for path, _ in rows] == sorted(expected)
    for path, reason in rows:
        assert expected[path] in reason
        assert reason
        assert str(tmp_path) not in reason
        assert "0x" not in reason  # an address would differ from run to run


def test_bad_images_are_skipped_on_request(tmp_path: Path) -> None:
    expected = spoiled(tmp_path / "root")
    out = tmp_path / "out"
    with pytest.raises(UserError):
        prepare("imagefolder", data_config(), tmp_path / "root", out)
    info = prepare("imagefolder", data_config(on_bad_image="skip"), tmp_path / "root", out)
    assert info.num_skipped == len(expected)
    assert [path for path, _, _ in manifest_rows(out)] == sorted(
        SMALL, key=lambda name: (name.startswith("test"), name)
    )
    with (out / "bad_images.csv").open(newline="") as file:
        assert {path for path, _ in list(csv.reader(file))[1:]} == set(expected)
    assert not (tmp_path / "out.bad_images.csv").exists()  # it told of the earlier failure
    for path in expected:
        (tmp_path / "root" / path).unlink()
    clean = prepare("imagefolder", data_config(), tmp_path / "root", tmp_path / "clean")
    assert clean == info.model_copy(update={"num_skipped": 0})
    assert not (tmp_path / "clean/bad_images.csv").exists()


def test_unusual_but_good_images_pass(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = noise(50, 8, 12)
    image.save(root / "train/a/rotated.png", exif=exif)
    image.convert("P").save(root / "train/a/palette.gif")
    image.convert("CMYK").save(root / "train/a/cmyk.jpg")
    image.convert("RGBA").save(root / "train/a/alpha.webp")
    image.convert("LA").save(root / "train/a/grey_alpha.png")
    image.convert("1").save(root / "train/a/bilevel.tiff")
    frames = [noise(i, 8, 12) for i in (51, 52)]
    image.save(root / "train/a/animated.gif", save_all=True, append_images=frames)
    depth = np.full((12, 8), 65535, dtype=np.uint16)
    Image.fromarray(depth).save(root / "train/a/deep.png")
    image.save(root / "train/a/wrong.jpeg", format="BMP")
    info = prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert info.num_skipped == 0
    assert info.counts["train"] == 15
    out = Prepared.read(tmp_path / "out")
    assert out.images is not None
    assert (out.images[out.names.index("train/a/deep.png")] == 255).all()
    rotated = np.rot90(np.asarray(image), -1)[:, 2:10]  # upright 12 x 8, its central square
    assert (out.images[out.names.index("train/a/rotated.png")] == rotated).all()


def test_warnings_are_as_before_afterwards(tree: Tree, tmp_path: Path) -> None:
    import warnings

    before = list(warnings.filters)
    prepare("imagefolder", data_config(), tree(*SMALL), tmp_path / "out")
    assert warnings.filters == before


# mistakes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/a/1.png", "train/a/2.png"], "fewer than 2 classes"),
        (["train/a/1.png", "train/b/notes.txt"], "class 'b' has no readable training image"),
    ],
)
def test_classes_without_images(
    tree: Tree, tmp_path: Path, names: list[str], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        prepare("imagefolder", data_config(), tree(*names), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_dataset_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset=cifar; allowed: digits, .* did you mean cifar1"):
        prepare("cifar", data_config(), tmp_path, tmp_path / "out")


def test_a_constant_channel_needs_an_explicit_std(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL)
    for path in root.rglob("*.png"):
        with Image.open(path) as image:
            pixels = np.array(image)
        pixels[..., 1] = 7
        Image.fromarray(pixels).save(path)
    with pytest.raises(UserError, match=r"channel 1 .* set data\.std"):
        prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    info = prepare("imagefolder", data_config(std=(0.2, 0.2, 0.2)), root, tmp_path / "out")
    assert info.std[1] == 0


def test_a_folder_of_others_is_never_replaced(tree: Tree, tmp_path: Path) -> None:
    root = tree(*SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine was not written by `prepare`"):
        prepare("imagefolder", data_config(), root, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years of work"}


def test_a_failure_leaves_the_earlier_output_alone(tree: Tree, tmp_path: Path, monkeypatch) -> None:
    root = tree(*SMALL)
    prepare("imagefolder", data_config(), root, tmp_path / "out")
    before = contents(tmp_path / "out")
    noise(99).save(root / "train/a/new.png")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semimae.data.prepare.write_csv", full)  # images.npy is written by then
    with pytest.raises(OSError, match="No space"):
        prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["out", "root"]


def test_it_replaces_earlier_output_and_clears_what_a_killed_run_left(
    tree: Tree, tmp_path: Path
) -> None:
    root = tree(*SMALL)
    prepare("imagefolder", data_config(), root, tmp_path / "out")
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp/images.npy").write_bytes(b"half")
    prepare("imagefolder", data_config(pack_max_side=0), root, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["dataset.json", "manifest.csv"]
    assert sorted(os.listdir(tmp_path)) == ["out", "root"]
    info = DatasetInfo.model_validate(
        json.loads((tmp_path / "out/dataset.json").read_text()), strict=False
    )
    assert not info.packed
