"""Small datasets, and options to read them with, for tests of any folder."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semimae.data.store import DatasetInfo, Prepared
from semimae.ingest.datasets import DATASETS, Source
from semimae.options.data import DataConfig
from semimae.types import UserError

SMALL = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(3)]
DEFAULTS = {
    "root": None,
    "manifest": "manifest.csv",
    "image_size": 8,
    "channels": 3,
    "on_bad_image": "fail",
    "white_level": None,
    "pack_max_side": 64,
    "cache_size": None,
    "mean": None,
    "std": None,
    "test_fraction": 0.25,
    "val_fraction": 0.2,
    "folds": 0,
    "include_labeled": True,
    "labeled_list": None,
    "crop": "pad",
    "crop_padding": 1,
    "crop_min_scale": 0.2,
    "hflip": False,
    "color_jitter": 0.0,
    "randaugment_ops": 2,
    "randaugment_magnitude": 5,
    "randaugment_magnitude_std": 0.0,
    "randaugment_probability": 1.0,
    "cutout": 0.25,
    "erasing": 0.0,
    "erasing_fill": "mean",
    "workers": 2,
    "decode": "auto",
}


def data_config(**changes: object) -> DataConfig:
    return DataConfig.model_validate(DEFAULTS | changes)


def noise(seed: int, width: int = 8, height: int = 8) -> Image.Image:
    shape = (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_images(root: Path, names: list[str]) -> None:
    """Write a different image of noise under each name."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(path, format="PNG")


def in_memory(labels: list[int], splits: list[str], names: list[str] | None = None) -> Prepared:
    """A prepared dataset without files or pixels."""
    num_classes = max(labels) + 1
    counts = {name: splits.count(name) for name in ("train", "unlabeled", "val", "test")}
    info = DatasetInfo(
        name="memory",
        fingerprint="f" * 32,
        num_classes=num_classes,
        class_names=tuple(f"class{i}" for i in range(num_classes)),
        image_size=8,
        channels=3,
        packed=False,
        white_level=None,
        cache_size=None,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        counts=counts,
        num_skipped=0,
        duplicates_test_train=0,
    )
    names = names or [f"{split}/{i}.jpg" for i, split in enumerate(splits)]
    return Prepared(info, names, np.array(labels, dtype=np.int64), np.array(splits), None)


def load(dataset: str, root: Path, **changes: object) -> Source:
    source = DATASETS[dataset](root, data_config(**changes))
    assert len(source.names) == len(source.labels) == len(source.splits) == len(set(source.names))
    return source


def refusal(dataset: str, root: Path, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        load(dataset, root, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def manifest_rows(folder: Path) -> list[list[str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]
