"""`DATASETS`: each dataset is a function from a root folder to a `Source`."""

import tarfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semimae.ingest.csv_manifest import csv_manifest
from semimae.ingest.image_files import imagefolder
from semimae.ingest.source import Source, from_arrays
from semimae.options.data import DataConfig
from semimae.types import UserError

__all__ = ["DATASETS", "Source"]


def digits(root: Path, config: DataConfig) -> Source:
    """Return scikit-learn's 1,797 gray 8x8 digits, which have no test set of their own."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)  # the file has values 0..16
    return from_arrays("digits", {"train": (images, data.target)}, [str(i) for i in range(10)])


def _cifar(name: str, class_name: str) -> Callable[[Path, DataConfig], Source]:
    def load(root: Path, config: DataConfig) -> Source:
        from torchvision import datasets

        cls = getattr(datasets, class_name)
        train = _fetch(name, cls, root, train=True)
        test = cls(root, train=False)
        parts = {"train": (train.data, train.targets), "test": (test.data, test.targets)}
        return from_arrays(name, parts, list(train.classes))

    return load


def stl10(root: Path, config: DataConfig) -> Source:
    """Return STL-10: 5,000 training, 8,000 test and 100,000 unlabeled images of 96x96."""
    from torchvision.datasets import STL10

    train = _fetch("stl10", STL10, root, split="train")  # checks the files of all splits
    folder = root / STL10.base_folder

    def images(split: str) -> NDArray[np.uint8]:  # mapped: the unlabeled ones are 2.8 GB
        planes = np.memmap(folder / f"{split}_X.bin", np.uint8, "r").reshape(-1, 3, 96, 96)
        return planes.transpose(0, 3, 2, 1)  # the file has columns before rows

    unlabeled = images("unlabeled")
    parts = {
        "train": (images("train"), train.labels),
        "unlabeled": (unlabeled, [-1] * len(unlabeled)),
        "test": (images("test"), STL10(root, split="test").labels),
    }
    return from_arrays("stl10", parts, list(train.classes))


def _fetch(name: str, cls: Any, root: Path, **options: Any) -> Any:
    """Load a torchvision dataset. It verifies checksums and downloads what is missing."""
    try:
        return cls(root, download=True, **options)
    except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UserError(
            f"dataset={name} is not in {root} and could not be downloaded ({reason}); "
            f"put {cls.filename} from {cls.url} there and run the command again."
        ) from error


DATASETS: dict[str, Callable[[Path, DataConfig], Source]] = {
    "digits": digits,
    "cifar10": _cifar("cifar10", "CIFAR10"),
    "cifar100": _cifar("cifar100", "CIFAR100"),
    "stl10": stl10,
    "imagefolder": imagefolder,
    "csv": csv_manifest,
}
