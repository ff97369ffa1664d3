import hashlib
import pickle
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torchvision
from data_helpers import load, refusal
from sklearn.datasets import load_digits

from semimae.ingest.source import class_order


def test_class_order_is_by_value_only_if_all_are_integers() -> None:
    assert class_order(["10", "9", "1", "9"]) == ["1", "9", "10"]
    assert class_order(["10", "9", "x"]) == ["10", "9", "x"]


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    source = load("digits", tmp_path / "absent")
    data = load_digits()
    assert source.labels == data.target.tolist()
    assert set(source.splits) == {"train"}
    image = source.open(17)
    assert (image.mode, image.size) == ("L", (8, 8))
    assert np.abs(np.asarray(image) / 255 - data.images[17] / 16).max() < 0.5 / 255
    assert source.read_bytes(17) == image.tobytes()
    assert not (tmp_path / "absent").exists()


# torchvision's datasets, from archives in their on-disk format


def archive(folder: Path, files: dict[str, bytes], root: Path, monkeypatch, cls: type) -> None:
    """Put ``cls.filename`` with these files into ``root`` and tell ``cls`` its checksums."""
    inner = folder / cls.base_folder
    inner.mkdir(parents=True)
    for name, content in files.items():
        (inner / name).write_bytes(content)
    root.mkdir()
    with tarfile.open(root / cls.filename, "w:gz") as tar:
        tar.add(inner, cls.base_folder)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5((root / cls.filename).read_bytes()).hexdigest())
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5[name]] for name, _ in getattr(cls, attribute)]
        monkeypatch.setattr(cls, attribute, listed)
    if hasattr(cls, "meta"):
        monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5[cls.meta["filename"]]})


def cifar_files(cls: type, label_key: str, class_names: list[str]) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {cls.meta["filename"]: pickle.dumps({cls.meta["key"]: class_names})}
    for name, _ in cls.train_list + cls.test_list:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": data, label_key: [0, 1, 1, 0]})
    return files


@pytest.mark.parametrize(
    ("dataset", "class_name", "key"),
    [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")],
)
def test_cifar_reads_an_archive_put_into_the_root(
    tmp_path: Path, monkeypatch, dataset: str, class_name: str, key: str
) -> None:
    cls = getattr(torchvision.datasets, class_name)
    files = cifar_files(cls, key, ["cat", "dog"])
    archive(tmp_path / "make", files, tmp_path / "root", monkeypatch, cls)
    source = load(dataset, tmp_path / "root")
    num_train = 4 * len(cls.train_list)
    assert source.splits == ["train"] * num_train + ["test"] * 4
    assert source.class_names == ["cat", "dog"]
    assert source.labels[:4] == [0, 1, 1, 0]
    stored = pickle.loads(files[cls.test_list[0][0]])["data"][1].reshape(3, 32, 32)
    assert (np.asarray(source.open(num_train + 1)).transpose(2, 0, 1) == stored).all()
    assert source.read_bytes(num_train + 1) == source.open(num_train + 1).tobytes()


def test_stl10_agrees_with_torchvision(tmp_path: Path, monkeypatch) -> None:
    cls = torchvision.datasets.STL10
    rng = np.random.default_rng(0)
    files = {"class_names.txt": b"plane\nbird\n", "fold_indices.txt": b"0\n"}
    for split, count in (("train", 3), ("unlabeled", 5), ("test", 2)):
        files[f"{split}_X.bin"] = rng.integers(0, 256, count * 27648, dtype=np.uint8).tobytes()
    files |= {
        "train_y.bin": bytes([1, 2, 1]),
        "test_y.bin": bytes([2, 2]),
    }  # the file counts from 1
    archive(tmp_path / "make", files, tmp_path / "root", monkeypatch, cls)
    source = load("stl10", tmp_path / "root")
    assert source.splits == ["train"] * 3 + ["unlabeled"] * 5 + ["test"] * 2
    assert source.labels == [0, 1, 0] + [-1] * 5 + [1, 1]
    assert source.class_names == ["plane", "bird"]
    for split, first in (("train", 0), ("unlabeled", 3), ("test", 8)):
        theirs, _ = cls(tmp_path / "root", split=split)[1]
        assert (np.asarray(source.open(first + 1)) == np.asarray(theirs)).all()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "stl10"])
def test_without_network_the_message_says_what_to_put_where(
    tmp_path: Path, monkeypatch, dataset: str
) -> None:
    def offline(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", offline)
    message = refusal(dataset, tmp_path)
    assert str(tmp_path) in message
    assert ".tar.gz from http" in message
    assert "no route to host" in message


def test_an_archive_with_another_checksum_is_not_used(tmp_path: Path, monkeypatch) -> None:
    cls = torchvision.datasets.CIFAR10
    files = cifar_files(cls, "labels", ["cat", "dog"])
    archive(tmp_path / "make", files, tmp_path / "root", monkeypatch, cls)
    monkeypatch.setattr(cls, "test_list", [["test_batch", "0" * 32]])
    assert "cifar-10-python.tar.gz" in refusal("cifar10", tmp_path / "root")
