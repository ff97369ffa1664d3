import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import contents, data_config, noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semimae.data.cache import cached_sizes
from semimae.data.images import convert
from semimae.data.reader import ImageReader
from semimae.data.store import Prepared
from semimae.ingest.prepare import prepare
from semimae.types import UserError

NAMES = ["train/a/1.png", "train/b/2.png", "test/b/3.png", "unlabeled/4.png"]
LARGE = {"train/a/wide.png": (90, 60), "train/b/high.png": (40, 77), "test/a/strip.png": (300, 5)}
CPU = torch.device("cpu")


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    folder = tree(*NAMES)
    for seed, (name, size) in enumerate(LARGE.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(seed, *size).save(folder / name)
    return folder


def cached(root: Path, out: Path, **changes: object) -> Prepared:
    config = data_config(**{"pack_max_side": 0, "cache_size": 16} | changes)
    prepare("imagefolder", config, root, out)
    return Prepared.read(out)  # without root: nothing is read from there


sides = st.integers(1, 5000)


@given(sides, sides, st.integers(4, 4096))
def test_copies_keep_their_shape_and_are_never_larger(
    width: int, height: int, shorter: int
) -> None:
    (size,) = cached_sizes(np.array([[width, height]], dtype=np.int32), shorter).tolist()
    assert min(size) == min(width, height, shorter)
    if min(width, height) > shorter:
        scale = shorter / min(width, height)
        assert max(size) == pytest.approx(max(width, height) * scale, abs=0.5)
    else:
        assert size == [width, height]


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_are_the_scaled_images(root: Path, tmp_path: Path, channels: int) -> None:
    prepared = cached(root, tmp_path / "out", channels=channels)
    assert prepared.info.cache_size == 16
    assert set(LARGE) < set(prepared.names)
    for index, name in enumerate(prepared.names):
        with Image.open(root / name) as image:
            whole = convert(image, channels)  # type: ignore[arg-type]
        copy = prepared.pixels(index)
        height, width = copy.shape[:2]
        if name in LARGE and min(whole.size) > 16:
            assert min(width, height) == 16
            whole = whole.resize((width, height), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(copy, np.asarray(whole).reshape(height, width, channels))


def test_a_cache_is_the_same_everywhere(root: Path, tmp_path: Path) -> None:
    cached(root, tmp_path / "one", workers=1)
    cached(shutil.copytree(root, tmp_path / "moved"), tmp_path / "two", workers=5)
    first = contents(tmp_path / "one")
    assert first == contents(tmp_path / "two")
    assert sorted(first) == ["cache.npy", "cache_sizes.npy", "dataset.json", "manifest.csv"]


def test_fingerprint_and_moments_are_of_the_images_and_not_of_the_copies(
    root: Path, tmp_path: Path
) -> None:
    plain, copied = (
        cached(root, tmp_path / f"{size}", cache_size=size).info for size in (None, 16)
    )
    assert copied == plain.model_copy(update={"cache_size": 16})


def test_packed_images_have_no_cache(root: Path, tmp_path: Path) -> None:
    prepared = cached(root, tmp_path / "out", pack_max_side=300)
    assert prepared.info.packed
    assert prepared.info.cache_size is None
    assert "cache.npy" not in contents(tmp_path / "out")


def test_training_and_scoring_read_the_copies(root: Path, tmp_path: Path) -> None:
    prepared = cached(root, tmp_path / "out")
    rows = np.arange(len(prepared.names))
    source = torch.Generator().manual_seed(0)
    draws = [torch.rand(len(rows), 4, generator=source) for _ in range(2)]
    config = data_config(pack_max_side=0, cache_size=16, crop="resized")
    reader = ImageReader(prepared, config, rows, CPU)
    views = [*reader.crops(rows, draws), reader.whole(rows)]
    shutil.rmtree(root)
    again = ImageReader(Prepared.read(tmp_path / "out", root), config, rows, CPU)
    for before, after in zip(views, [*again.crops(rows, draws), again.whole(rows)], strict=True):
        assert before.shape == (len(rows), 3, 8, 8)
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "cache.npy").unlink(),
        lambda f: (f / "cache_sizes.npy").unlink(),
        lambda f: (f / "cache.npy").write_bytes((f / "cache.npy").read_bytes()[:-1]),
        lambda f: np.save(f / "cache.npy", np.zeros(9, dtype=np.uint8)),
        lambda f: np.save(f / "cache_sizes.npy", np.full((3, 2), 4, dtype=np.int32)),
    ],
    ids=["no pixels", "no sizes", "short", "other pixels", "other sizes"],
)
def test_a_damaged_cache_is_refused(
    root: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    cached(root, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=r"^out/ is damaged .* run `dvc repro prepare`"):
        Prepared.read(tmp_path / "out")


def test_copies_that_would_be_enlarged_are_refused() -> None:
    with pytest.raises(ValueError, match="Value error, cache_size=7 is smaller than image_size=8;"):
        data_config(cache_size=7)
    assert data_config(cache_size=8).cache_size == 8
