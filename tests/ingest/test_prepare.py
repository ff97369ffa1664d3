import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import SMALL, contents, data_config, manifest_rows, noise
from PIL import Image
from sklearn.datasets import load_digits

from semimae.data.store import DatasetInfo, Prepared
from semimae.ingest import scan
from semimae.ingest.prepare import prepare
from semimae.types import UserError

Tree = Callable[..., Path]


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


def test_evenly_spaced_training_images_stand_for_many(
    tree: Tree, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(scan, "MEASURED", 3)
    names = [f"train/{c}/{i}.png" for c in "ab" for i in range(10)]
    root = tree(*names, *(f"test/a/{i}.png" for i in range(30)))
    info = prepare("imagefolder", data_config(pack_max_side=0), root, tmp_path / "out")
    sample = np.stack([np.asarray(noise(seed)) for seed in (0, 9, 19)]) / 255
    assert info.mean == pytest.approx(sample.mean(axis=(0, 1, 2)))


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


# mistakes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/a/1.png", "train/a/2.png"], "fewer than 2 classes"),
        (["train/a/1.png", "train/b/.2.png"], r"class 'b' has no .* \(train/b/\.2\.png: hidden\)"),
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

    monkeypatch.setattr("semimae.ingest.prepare.write_csv", full)  # images.npy is written by then
    with pytest.raises(OSError, match="No space"):
        prepare("imagefolder", data_config(), root, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["out", "out.findings.json", "root"]


def test_it_replaces_earlier_output_and_clears_what_a_killed_run_left(
    tree: Tree, tmp_path: Path
) -> None:
    root = tree(*SMALL)
    prepare("imagefolder", data_config(), root, tmp_path / "out")
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp/images.npy").write_bytes(b"half")
    prepare("imagefolder", data_config(pack_max_side=0), root, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["dataset.json", "manifest.csv"]
    assert sorted(os.listdir(tmp_path)) == ["out", "out.findings.json", "root"]
    info = DatasetInfo.model_validate(
        json.loads((tmp_path / "out/dataset.json").read_text()), strict=False
    )
    assert not info.packed
