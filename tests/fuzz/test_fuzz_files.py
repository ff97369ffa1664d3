"""Manifests, folders and images of any content, given to ``prepare`` as a user would."""

import io
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_cases import CANARY, Command, Fuzz, listing
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML
from support import changed_params

pytestmark = pytest.mark.slow
Prepare = Callable[..., str | None]


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    if mode.startswith("I;16"):
        wide = rng.integers(0, 65536, (size[1], size[0]), dtype=np.uint16)
        return Image.fromarray(wide)
    return image.convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int, depth: int = 8) -> bytes:
    """A PNG of some bytes that says it has ``side * side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def rotated(turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(picture(9), "JPEG", exif=exif)


FRAMES = {"save_all": True, "append_images": [picture(1), picture(2)]}
IMAGES: dict[str, bytes] = {
    "png": encoded(picture(0), "PNG"),
    "jpeg": encoded(picture(0, size=(40, 33)), "JPEG"),
    "cmyk": encoded(picture(0, "CMYK"), "JPEG"),
    "palette": encoded(picture(0, "P"), "PNG"),
    "alpha": encoded(picture(0, "RGBA"), "PNG"),
    "gray alpha": encoded(picture(0, "LA"), "PNG"),
    "bilevel": encoded(picture(0, "1"), "TIFF"),
    "16 bit": encoded(picture(0, "I;16"), "PNG"),
    "16 bit tiff": encoded(picture(0, "I;16"), "TIFF"),
    "float": encoded(picture(0, "F"), "TIFF"),
    "lab": encoded(picture(0, "LAB"), "TIFF"),
    "bmp": encoded(picture(0), "BMP"),
    "ppm": encoded(picture(0), "PPM"),
    "webp": encoded(picture(0), "WEBP"),
    "jpeg 2000": encoded(picture(0, size=(40, 33)), "JPEG2000"),
    "animated gif": encoded(picture(0), "GIF", **FRAMES),
    "animated webp": encoded(picture(0), "WEBP", **FRAMES),
    "animated png": encoded(picture(0), "PNG", **FRAMES),
    "many pages": encoded(picture(0), "TIFF", **FRAMES),
    **{f"rotated {turn}": rotated(turn) for turn in (0, 3, 6, 8, 99)},
    "one pixel": encoded(picture(0, size=(1, 1)), "PNG"),
    "a row": encoded(picture(0, size=(700, 1)), "PNG"),
    "a column": encoded(picture(0, size=(1, 700)), "JPEG"),
    "empty": b"",
    "bomb": bomb(20_000),
    "smaller bomb": bomb(9_500, 16),
    "no pixels": bomb(0),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file\nshowpage\n",
    "pdf": b"%PDF-1.4\n1 0 obj\n<</Type/Catalog>>\nendobj\ntrailer<</Root 1 0 R>>\n",
    "html": b"<html>404</html>",
    "gzip": b"\x1f\x8b\x08\x00" + bytes(30),
    "ico": b"\x00\x00\x01\x00" + bytes(40),
    "xpm": b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c red", "a"};\n',
}
SUFFIXES = [".jpg", ".png", ".gif", ".tif", ".webp", ".bmp", ".JPEG", ".jp2", ".ppm"]
GOOD = [f"{name}.png" for name in "abcdefgh"]


@pytest.fixture
def prepare(command: Command, tmp_path: Path) -> Prepare:
    """Run ``prepare`` on what is in the folder ``data``; what it leaves behind is checked."""
    outside = tmp_path / "outside.png"
    picture(77).save(outside)
    (tmp_path / "data").mkdir()
    yaml = YAML(typ="safe", pure=True)

    def run(dataset: str, **changes: object) -> str | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 4_000_000)  # the same, in less memory
            params = changed_params(
                dataset=dataset, data__workers=2, data__pack_max_side=64, **changes
            )
            yaml.dump(params.model_dump(mode="json"), tmp_path / "params.yaml")
            before = listing(tmp_path)
            message = command("prepare")
        after = listing(tmp_path)
        made = {name for name in after if name not in before}
        if message is None:
            assert {"prepared/dataset.json", "prepared/manifest.csv", "dataset.json"} <= made
            assert all(name.startswith(("prepared", "dataset.json")) for name in made)
        else:
            assert made <= {"prepared.bad_images.csv"}, message
        assert {k: v for k, v in after.items() if k in before} == before
        assert CANARY not in {Path(name).name for name in after}
        beside = ("bad_images.csv", "findings.json", "skipped.csv")
        for name in ("prepared", "dataset.json", *(f"prepared.{name}" for name in beside)):
            path = tmp_path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return message

    return run


def renew(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


cells = (
    st.sampled_from([*GOOD, *GOOD, "link.png", "loop.png", "away.png", "pipe.png", "none.png"])
    | st.sampled_from(
        ["../outside.png", "./a.png", "sub/../a.png", "/etc/passwd", "", ".", "..", "//"]
    )
    | st.sampled_from(
        ["sub/s.png", "far/outside.png", "x\0y", "a" * 300, "p/" * 3000, "\u2028", "\x1b[2J"]
    )
    | st.text(max_size=6)
)
labels = st.sampled_from(
    ["cat", "dog", "cat", "dog", "0", "1", "01", "", "-1", "9" * 5000, "\x00"]
) | (st.text(max_size=4))
splits = st.sampled_from(["", "train", "train", "test", "val", "unlabeled", "Train", "x" * 99])
HEADERS = [
    "path,label,split",
    "path,label,split",
    "path,label",
    "label,path",
    "path,label,split,extra",
    "path",
    "",
    "path,path,label",
    "path;label",
    " path,label",
    "\ufeffpath,label",
    "PATH,LABEL",
]
CODES = ["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "utf-7"]


def test_any_manifest(prepare: Prepare, fuzz: Fuzz, tmp_path: Path) -> None:
    """Names that exist, do not, repeat, lead out; columns, quotes and encodings of all kinds."""
    root = renew(tmp_path / "data")
    for seed, name in enumerate(GOOD):
        picture(seed).save(root / name)
    (root / "sub").mkdir()
    picture(50).save(root / "sub/s.png")
    os.symlink("a.png", root / "link.png")
    os.symlink("loop.png", root / "loop.png")
    os.symlink("../outside.png", root / "away.png")
    os.symlink("..", root / "far")
    os.mkfifo(root / "pipe.png")
    passed = []

    def check(case: tuple[str, list[tuple[str, str, str]], str, str, bool]) -> None:
        header, rows, code, ending, quoted = case
        lines = [header]
        for path, label, split in rows:
            row = [path, label, split][: header.count(",") + 1]
            lines.append(",".join(f'"{cell}"' if quoted else cell for cell in row))
        content = ending.join([*lines, ""]).encode(code, errors="replace")
        (root / "manifest.csv").write_bytes(content)
        passed.append(prepare("csv", data__image_size=8) is None)

    sound = st.lists(
        st.tuples(st.sampled_from(GOOD), st.sampled_from(["cat", "dog"]), st.just("train")),
        unique_by=lambda row: row[0],
        min_size=4,
    )
    any_rows = st.lists(st.tuples(cells, labels, splits), max_size=8)
    one_odd = st.builds(lambda a, b: [*a, b], sound, st.tuples(cells, labels, splits))
    odd = st.tuples(
        st.sampled_from(HEADERS),
        any_rows | one_odd,
        st.sampled_from(CODES),
        st.sampled_from(["\n", "\r\n", "\r", "\n\n", ',\n"']),
        st.booleans(),
    )
    plain = st.tuples(
        st.just(HEADERS[0]), sound | one_odd, st.just("utf-8"), st.just("\n"), st.booleans()
    )
    fuzz(odd | plain, check)
    assert any(passed)
    assert not all(passed)


def test_any_tree_of_files(prepare: Prepare, fuzz: Fuzz, tmp_path: Path) -> None:
    """Folders of classes: files in odd places, links that loop or lead out, pipes, odd names."""
    root = tmp_path / "data"
    places = [
        "train/cat",
        "train/dog",
        "train/cat/deep/er",
        "test/cat",
        "test/dog",
        "val/cat",
        "test/bird",
        "unlabeled",
        "train",
        "",
        "train/.hidden",
        "other",
        "train/\u00e9\u00e8",
        "train/ ",
    ]
    kinds = ["png"] * 6 + [
        "link out",
        "link loop",
        "dangling",
        "pipe",
        "folder",
        "text",
        "folder link",
    ]

    def check(entries: list[tuple[str, str, str]]) -> None:
        renew(root)
        for number, (place, name, kind) in enumerate(entries):
            folder = root / place
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / (name + ".png")
                if kind == "png":
                    path.write_bytes(encoded(picture(number), "PNG"))
                elif kind == "pipe":
                    os.mkfifo(path)
                elif kind == "folder":
                    path.mkdir()
                elif kind == "text":
                    path.write_bytes(b"no image")
                else:
                    targets = {"link out": tmp_path / "outside.png", "link loop": path.name}
                    targets |= {"dangling": "nowhere.png", "folder link": "."}
                    os.symlink(targets[kind], path)
            except OSError:  # two entries of one name, or one below a file
                continue
        for number in range(3):
            for name in ("cat", "dog"):
                folder = root / "train" / name
                if not entries or entries[0][2] == "png":  # else there may be nothing else
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{number}.png").write_bytes(encoded(picture(90 + number), "PNG"))
        prepare("imagefolder", data__image_size=8, data__on_bad_image="skip")

    names = st.sampled_from(["a", "b", "a\nb", "\x1b[2J", "\udcff", "x" * 240, ".h", "ä", " "])
    fuzz(
        st.lists(st.tuples(st.sampled_from(places), names, st.sampled_from(kinds)), max_size=6),
        check,
    )


def test_any_image(prepare: Prepare, fuzz: Fuzz, tmp_path: Path) -> None:
    """Every kind of image, whole, cut, with bytes changed, or under a wrong name."""
    root = renew(tmp_path / "data")
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(3):
            picture(number + 10 * len(name)).save(root / "train" / name / f"{number}.png")
    passed = []

    def check(case: tuple[str, str, str, int, bool]) -> None:
        kind, suffix, way, place, skip = case
        content = bytearray(IMAGES[kind])
        rng = random.Random(place)
        if way == "cut":
            content = content[: place % (len(content) + 1)]
        elif way == "changed" and content:
            for _ in range(1 + place % 4):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif way == "head" and content:
            content[rng.randrange(min(40, len(content)))] ^= 1 << (place % 8)
        elif way == "doubled":
            content = content + content
        path = root / "train/cat" / f"odd{suffix}"
        path.write_bytes(content)
        message = prepare(
            "imagefolder",
            data__image_size=8,
            data__channels=1 + 2 * (place % 2),
            data__on_bad_image="skip" if skip else "fail",
        )
        path.unlink()
        assert not (skip and message), message
        passed.append(message is None)

    fuzz(
        st.tuples(
            st.sampled_from(sorted(IMAGES)),
            st.sampled_from(SUFFIXES),
            st.sampled_from(["whole", "cut", "cut", "changed", "head", "head", "doubled"]),
            st.integers(0, 10**6),
            st.booleans(),
        ),
        check,
    )
    assert any(passed)
    assert not all(passed)
