"""Images that cannot be decoded, and unusual ones that can."""

import csv
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import SMALL, data_config, manifest_rows, noise, write_images
from PIL import Image

from semimae.data.store import Prepared
from semimae.ingest.prepare import prepare
from semimae.types import UserError

Tree = Callable[..., Path]


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
    image.convert("LA").save(root / "train/a/gray_alpha.png")
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
    before = list(warnings.filters)
    prepare("imagefolder", data_config(), tree(*SMALL), tmp_path / "out")
    assert warnings.filters == before
