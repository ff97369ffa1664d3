import os
import struct
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torchvision.transforms import functional

from semimae.data.images import convert, fit, largest_value, open_file, readable_formats

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def reread(image: Image.Image, path: Path, channels: int = 3, **options: object) -> np.ndarray:
    image.save(path, **options)
    with open_file(path) as opened:
        return np.asarray(convert(opened, channels))


def test_rgb_and_gray_come_back_unchanged(tmp_path: Path) -> None:
    gray = PIXELS[..., 0]
    assert (reread(Image.fromarray(PIXELS), tmp_path / "a.png") == PIXELS).all()
    assert (reread(Image.fromarray(gray), tmp_path / "a.pgm", 1) == gray).all()
    assert (reread(Image.fromarray(gray), tmp_path / "a.bmp") == gray[..., None]).all()


def test_gray_is_the_luma_of_rgb(tmp_path: Path) -> None:
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(reread(Image.fromarray(PIXELS), tmp_path / "a.png", 1) - luma).max() <= 1


def test_bilevel_becomes_black_and_white(tmp_path: Path) -> None:
    bits = PIXELS[..., 0] > 127
    assert (reread(Image.fromarray(bits), tmp_path / "a.png", 1) == bits * 255).all()


def test_palette_gives_its_colors_not_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)).convert("P")
    image.putpalette([200, 10, 30, 5, 250, 90])
    assert reread(image, tmp_path / "a.png")[0].tolist() == [[200, 10, 30], [5, 250, 90]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (4, 4), (255, 0, 0, 0))  # all cyan
    assert reread(image, tmp_path / "a.tif")[0, 0].tolist() == [0, 255, 255]
    image.save(tmp_path / "a.jpg")
    with open_file(tmp_path / "a.jpg") as opened:
        assert opened.mode == "CMYK"
        assert np.abs(np.asarray(convert(opened, 3))[0, 0].astype(int) - [0, 255, 255]).max() < 4


def test_alpha_shows_a_white_ground(tmp_path: Path) -> None:
    rgba = np.array([[[100, 50, 0, 255], [100, 50, 0, 0], [100, 50, 0, 51]]], dtype=np.uint8)
    expected = [[100, 50, 0], [255, 255, 255], [224, 214, 204]]  # 51/255 = 1/5 of the color
    assert reread(Image.fromarray(rgba), tmp_path / "a.png")[0].tolist() == expected
    la = np.array([[[100, 255], [100, 0]]], dtype=np.uint8)
    assert reread(Image.fromarray(la), tmp_path / "b.png", 1)[0].tolist() == [100, 255]


def test_transparent_color_of_rgb_and_palette_is_white(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    pixels = reread(rgb, tmp_path / "a.png", transparency=(1, 2, 3))
    assert pixels[0].tolist() == [[255, 255, 255], [9, 9, 9]]
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([200, 10, 30, 5, 250, 90])
    pixels = reread(image, tmp_path / "b.png", transparency=0)
    assert pixels[0].tolist() == [[255, 255, 255], [5, 250, 90]]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    pixels = reread(Image.fromarray(values), tmp_path / name, 1)
    assert pixels[0].tolist() == [0, 0, 1, 1, 128, 255]  # round(v * 255 / 65535)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
@pytest.mark.parametrize("white", [1, 255, 1023, 4095, 16383, 40000, 65535])
def test_the_white_level_decides_what_becomes_white(tmp_path: Path, name: str, white: int) -> None:
    values = np.linspace(0, 65535, 3000).astype(np.uint16).reshape(50, 60)
    values[0] = np.clip(white + np.arange(-30, 30), 0, 65535)
    Image.fromarray(values).save(tmp_path / name)
    with open_file(tmp_path / name) as image:
        pixels = np.asarray(convert(image, 1, white))
    exact = [[min(255, round(Fraction(255 * int(v), white))) for v in row] for row in values]
    ties = white % 2 == 0  # that round() breaks another way
    assert np.abs(pixels.astype(int) - exact).max() <= ties
    assert (pixels[values >= white] == 255).all()


def test_twelve_bits_keep_all_levels_that_eight_bits_can_hold(tmp_path: Path) -> None:
    ramp = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64))
    assert len(np.unique(np.asarray(convert(ramp, 1)))) == 17
    assert len(np.unique(np.asarray(convert(ramp, 1, 4095)))) == 256


def test_the_white_level_leaves_images_of_8_bits_alone(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with open_file(tmp_path / "a.png") as image:
        assert (np.asarray(convert(image, 3, 4095)) == PIXELS).all()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_color_is_told_and_has_no_white_level(tmp_path: Path, channels: int) -> None:
    """Pillow keeps the upper 8 bits of such images, so that 12 bits leave 16 levels."""
    values = np.full((4, 5, channels), 100, dtype=np.uint16)
    values[1, 1, 0], values[..., -1] = 4095, 65535 if channels != 3 else 100
    (tmp_path / "a.png").write_bytes(png_of_16_bits(values))
    with open_file(tmp_path / "a.png") as image:
        assert largest_value(image) == 4095 // 256 * 257
    with (
        open_file(tmp_path / "a.png") as image,
        pytest.raises(ValueError, match=r"data\.white_level cannot scale"),
    ):
        convert(image, 3, 4095)


def test_the_largest_value_is_that_of_images_with_more_than_8_bits(tmp_path: Path) -> None:
    for name, values, expected in (
        ("a.png", np.array([[7, 4095]], dtype=np.uint16), 4095),
        ("b.tif", np.array([[7, 65535]], dtype=np.uint16), 65535),
        ("c.tif", np.array([[7, 300]], dtype=np.int32), 300),
        ("d.png", np.array([[7, 255]], dtype=np.uint8), None),
        ("e.png", PIXELS, None),
    ):
        Image.fromarray(values).save(tmp_path / name)
        with open_file(tmp_path / name) as image:
            assert largest_value(image) == expected, name


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Encode ``[H, W, C]`` as in the PNG specification; Pillow writes gray of 16 bits alone."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)


def test_avif_is_read(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).resize((40, 30)).save(tmp_path / "a.jpg", format="AVIF")
    with open_file(tmp_path / "a.jpg") as image:
        assert convert(image, 3).size == (40, 30)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEIC, "HEIC, which needs the package pillow-heif"),
        (HEIC.replace(b"heic", b"mif1"), "HEIC, which needs the package pillow-heif"),
        (HEIC.replace(b"heic", b"avif"), "AVIF, which needs a Pillow that reads it"),
    ],
)
def test_without_a_decoder_the_remedy_is_named(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tuple(name for name in readable_formats() if name not in ("HEIF", "AVIF"))
    monkeypatch.setattr("semimae.data.images.readable_formats", lambda: lacking)
    (tmp_path / "IMG_1.jpg").write_bytes(content)  # whatever it is called
    with pytest.raises(ValueError, match=said):
        open_file(tmp_path / "IMG_1.jpg")


def test_heic_is_read_where_its_decoder_is_there(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    assert "HEIF" in readable_formats()
    Image.fromarray(PIXELS).resize((40, 30)).save(tmp_path / "a.heic", quality=-1)
    with open_file(tmp_path / "a.heic") as image:
        assert convert(image, 3).size == (40, 30)
    (tmp_path / "b.heic").write_bytes(HEIC)
    with pytest.raises(OSError, match="cannot identify"):
        open_file(tmp_path / "b.heic")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="not a plain file"):
        open_file(tmp_path / "a.png")


def test_values_without_a_defined_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float"):
        reread(Image.fromarray(np.ones((2, 2), dtype=np.float32)), tmp_path / "a.tif")
    for value in (-1, 65536):
        with pytest.raises(ValueError, match="outside"):
            reread(Image.fromarray(np.full((2, 2), value, dtype=np.int32)), tmp_path / "b.tif")


UPRIGHT = {  # EXIF 2.32, tag 0x0112: what a viewer must do with the stored array
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = UPRIGHT[orientation](PIXELS)
    image = Image.fromarray(PIXELS)
    assert np.array_equal(reread(image, tmp_path / "a.png", exif=exif), expected)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = orientation
    assert np.array_equal(reread(image, tmp_path / "a.tif", tiffinfo=tags), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage!", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_spoil_the_pixels(tmp_path: Path, exif: bytes) -> None:
    pixels = reread(Image.fromarray(PIXELS), tmp_path / "a.jpg", exif=exif)
    assert pixels.shape == PIXELS.shape


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_an_animation_is_its_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    pixels = reread(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], **options)
    with open_file(tmp_path / name) as opened:
        assert opened.n_frames == 3
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.JPEG"  # ImageNet has such files
    Image.fromarray(PIXELS).save(path, format="PNG")
    with open_file(path) as opened:
        assert opened.format == "PNG"
        assert (np.asarray(convert(opened, 3)) == PIXELS).all()


def test_postscript_is_never_run(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="EPS")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    Image.open(BytesIO(buffer.getvalue())).close()  # Pillow itself would take it
    with pytest.raises(UnidentifiedImageError):
        open_file(tmp_path / "a.jpg")


def test_fit_leaves_the_right_size_alone() -> None:
    square = Image.fromarray(PIXELS[:5, :5])
    assert (fit(square, 5) == PIXELS[:5, :5]).all()
    assert fit(square.convert("L"), 5).shape == (5, 5, 1)


@pytest.mark.parametrize(("width", "height"), [(40, 40), (56, 40), (40, 80), (20, 20)])
def test_fit_agrees_with_torchvision(width: int, height: int) -> None:
    smooth = Image.fromarray(PIXELS).resize((width, height), Image.Resampling.BICUBIC)
    resized = functional.resize(smooth, 30, functional.InterpolationMode.BICUBIC)
    expected = np.asarray(functional.center_crop(resized, 30)).astype(int)
    difference = np.abs(fit(smooth, 30) - expected)
    assert difference[1:-1, 1:-1].max() <= 1  # at the border torchvision sees beyond the crop
    assert difference.mean() < 0.5


def test_fit_of_a_thin_strip_takes_little_memory() -> None:
    strip = Image.new("RGB", (30_000, 1), "red")  # resized first it would have 200 gigapixels
    assert (fit(strip, 256) == [255, 0, 0]).all()
