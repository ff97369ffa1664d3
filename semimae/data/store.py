"""What `prepare` leaves for the later stages: a folder with the images' list and perhaps pixels."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from semimae.data.cache import PixelCache
from semimae.data.images import convert, open_file
from semimae.options.data import Decode
from semimae.types import Frozen, UserError

INFO, MANIFEST, IMAGES = "dataset.json", "manifest.csv", "images.npy"
COLUMNS = ["path", "label", "split"]
Rows = NDArray[np.int64]  # numbers of images in a prepared dataset


class DatasetInfo(Frozen):
    """``dataset.json``."""

    format: Literal[1] = 1  # raise it when the folder's files change their meaning
    name: str
    fingerprint: str  # of the images' content, names, classes and splits; not of their pixels' size
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int  # pixels
    channels: Literal[1, 3]
    packed: bool  # all images are in images.npy; otherwise they stay where they are
    white_level: int | None  # gray value of more than 8 bits that is white; null: 65535
    cache_size: int | None  # shorter side, in pixels, of the copies in cache.npy, if there are any
    mean: tuple[float, ...]  # per channel in [0, 1], over rows of split train and unlabeled
    std: tuple[float, ...]
    counts: dict[str, int]  # rows per split
    num_skipped: int  # images that could not be decoded
    duplicates_test_train: int  # test images whose content is also in another split

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not len(self.class_names) == len(set(self.class_names)) == self.num_classes >= 2:
            raise ValueError("class_names and num_classes differ")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("mean and std are not one per channel")
        return self


class Files(NamedTuple):
    """Where image files are, and how they are converted."""

    root: str
    channels: Literal[1, 3]
    white_level: int | None

    def pixels(self, name: str) -> NDArray[np.uint8]:
        """Return an image ``[H, W, C]`` in its own size.

        Raises:
            UserError: If its file cannot be read.
        """
        try:
            with open_file(os.path.join(self.root, name)) as image:
                whole = convert(image, self.channels, self.white_level)
        except Exception as error:  # Pillow's plugins raise whatever damaged data leads them to
            if not os.path.isdir(self.root):
                raise UserError(_gone(self.root)) from error
            raise UserError(
                f"{name} in {self.root} cannot be read any more "
                f"({type(error).__name__}); restore it, or run `dvc repro -f prepare`."
            ) from error
        return np.asarray(whole).reshape(whole.height, whole.width, -1)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared dataset. Row i of each field is the same image."""

    info: DatasetInfo
    names: list[str]
    labels: NDArray[np.int64]  # [N], -1: unlabeled
    splits: NDArray[np.str_]  # [N], of SPLITS
    images: NDArray[np.uint8] | None  # [N, H, W, C] if packed, mapped from the file
    root: Path | None = None  # the folder that holds the images if they are not packed
    cache: PixelCache | None = None  # smaller copies of those that are not packed
    workers: int = 0  # threads or processes that decode those that are not packed; 0: one per core
    decode: Decode = "auto"

    @classmethod
    def read(
        cls, folder: Path, root: Path | None = None, workers: int = 0, decode: Decode = "auto"
    ) -> "Prepared":
        """Read what `prepare` wrote.

        Args:
            folder: Where it wrote.
            root: Where images are that are not copied.
            workers: Threads or processes that decode those; 0: one per core.
            decode: Which of the two; auto: processes where threads could not feed a GPU.

        Raises:
            UserError: If the folder is missing, damaged or of another version, or the images are
                not where they were.
        """
        again = "run `dvc repro prepare`"
        if not (folder / INFO).is_file():
            raise UserError(f"{folder.name}/ is missing: {again}.")
        try:
            info = DatasetInfo.model_validate_json((folder / INFO).read_bytes())
            names, labels, splits = _read_manifest(folder / MANIFEST, info.class_names)
            images = np.lib.format.open_memmap(folder / IMAGES, "r") if info.packed else None
            cache = None if info.cache_size is None else PixelCache.read(folder, info.channels)
        except (ValueError, KeyError, OSError, EOFError, csv.Error) as error:
            reason = type(error).__name__
            raise UserError(
                f"{folder.name}/ is damaged or of another version ({reason}): {again}."
            ) from error
        if root is not None and not info.packed and cache is None and not root.is_dir():
            raise UserError(_gone(root))
        counts = dict(zip(*np.unique(splits, return_counts=True), strict=True))
        agree = counts == {split: n for split, n in info.counts.items() if n}
        if images is not None:
            shape = (len(names), info.image_size, info.image_size, info.channels)
            agree = agree and images.shape == shape and images.dtype == np.uint8
        if not agree or (cache is not None and len(cache) != len(names)):
            raise UserError(f"{folder.name}/ is damaged (its files do not agree): {again}.")
        return cls(info, names, labels, splits, images, root, cache, workers, decode)

    @property
    def files(self) -> Files:
        """Where images are that are not packed."""
        assert self.root is not None, "unpacked images need Prepared.read(folder, root)"
        return Files(str(self.root), self.info.channels, self.info.white_level)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Return an image ``[H, W, C]``; in its original size if it is neither packed nor cached.

        Raises:
            UserError: If its file cannot be read.
        """
        if self.images is not None:
            packed: NDArray[np.uint8] = self.images[index]
            return packed
        if self.cache is not None:
            return self.cache[index]
        return self.files.pixels(self.names[index])


def _gone(root: str | Path) -> str:
    return (
        f"the data folder {root} is gone; mount the disk that holds it, or set data.root or "
        "SEMIMAE_DATA to where the images are now."
    )


def _read_manifest(
    path: Path, class_names: tuple[str, ...]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.str_]]:
    index = {name: i for i, name in enumerate(class_names)} | {"": -1}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        if next(reader, None) != COLUMNS:
            raise ValueError(f"{path} has other columns than {COLUMNS}")
        rows = [(name, index[label], split) for name, label, split in reader]
    names, labels, splits = zip(*rows, strict=True)
    return list(names), np.array(labels, dtype=np.int64), np.array(splits, dtype=np.str_)


def resolve_root(config_root: str | None, dvc_root: Path) -> Path:
    """Return the folder that holds the images: data.root, else $SEMIMAE_DATA, else data/.

    A relative one is relative to ``dvc_root``, also for a queued experiment, which runs elsewhere.
    """
    root = config_root or os.environ.get("SEMIMAE_DATA") or "data"
    try:
        return dvc_root / Path(root).expanduser()
    except RuntimeError:  # ~name
        raise UserError(f"data root {root}: there is no such user; give a path.") from None
