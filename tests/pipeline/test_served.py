"""The served model and `predict` say the same of any image; what is no image is refused."""

import base64
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from runs import Project

from pipeline.tracking.model import _save
from semimae.data.images import convert, open_file
from semimae.inference.predict import predict_files
from semimae.model_file import open_model

with warnings.catch_warnings():  # MLflow warns of type hints of its own
    warnings.simplefilter("ignore")
    from mlflow.pyfunc import PyFuncModel, load_model
    from mlflow.pyfunc.scoring_server import invocations

pytestmark = pytest.mark.slow

MakeFile = Callable[[], bytes]
# How `prepare` may have left the images: packed, as they are, or scaled once to smaller copies.
PREPARED = {
    "packed": {"data__pack_max_side": 4096},
    "files": {"data__pack_max_side": 0},
    "copies": {"data__pack_max_side": 0, "data__cache_size": 24},
    "12 bits": {"data__pack_max_side": 0, "data__white_level": 4095},
    "copies of gray": {"data__pack_max_side": 0, "data__cache_size": 20, "data__channels": 1},
}


def noise(*shape: int, top: int = 256) -> Any:
    """Values that change from block to block, so that each way to scale gives others."""
    rng = np.random.default_rng(sum(shape))
    small = rng.integers(0, top, (-(-shape[0] // 5), -(-shape[1] // 5), *shape[2:]))
    return small.repeat(5, 0).repeat(5, 1)[: shape[0], : shape[1]]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(noise(height, width, 3).astype(np.uint8))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), "JPEG", exif=exif)


def mode(name: str, form: str = "PNG") -> bytes:
    return encoded(photo().convert(name), form)


def see_through(name: str) -> bytes:
    image = photo()
    image.putalpha(Image.fromarray(noise(70, 90).astype(np.uint8)))
    return encoded(image.convert(name), "PNG")


def palette_with_a_hole() -> bytes:
    return encoded(photo().convert("P"), "PNG", transparency=7)


def animation() -> bytes:
    frames = [photo().rotate(90)]
    return encoded(photo(), "GIF", save_all=True, append_images=frames)


def deep(form: str, top: int, kind: type = np.uint16) -> bytes:
    return encoded(Image.fromarray(noise(70, 90, top=top).astype(kind)), form)


ODD: dict[str, MakeFile] = {
    **{f"orientation {n}": lambda n=n: turned(n) for n in range(1, 9)},
    **{f"mode {n}": lambda n=n: mode(n) for n in ("1", "L", "P", "RGB")},
    **{f"mode {n}": lambda n=n: mode(n, "JPEG") for n in ("CMYK", "YCbCr")},
    **{f"see-through {n}": lambda n=n: see_through(n) for n in ("RGBA", "LA")},
    "see-through palette": palette_with_a_hole,
    "animation": animation,
    "16 bits": lambda: deep("PNG", 65536),
    "12 bits of 16": lambda: deep("PNG", 4096),
    "16 bits, tiff": lambda: deep("TIFF", 65536),
    "32 bits within 16": lambda: deep("TIFF", 65536, np.int32),
    **{f: lambda f=f: mode("RGB", f) for f in ("BMP", "WEBP", "PPM", "TIFF", "JPEG2000")},
    **{
        f"{w} x {h}": lambda w=w, h=h: encoded(photo(w, h), "PNG")
        for w, h in ((1, 1), (2, 1), (1, 2), (1, 5), (5, 1), (3000, 2), (2, 3000), (7, 9), (25, 24))
    },
}
BROKEN: dict[str, MakeFile] = {
    "no image": lambda: b"hello",
    "nothing": lambda: b"",
    "cut": lambda: mode("RGB")[:400],
    "floats": lambda: deep("TIFF", 9, np.float32),
    "32 bits": lambda: deep("TIFF", 70000, np.int32),
    "of a phone": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "of another kind": lambda: b"%PDF-1.4\n",
}


class Served(NamedTuple):
    project: Project
    model: PyFuncModel

    def post(self, **body: Any) -> Any:
        """Ask as MLflow's server does; return what it says, and its status."""
        schema = self.model.metadata.get_input_schema()
        try:
            answer = invocations(json.dumps(body), "application/json", self.model, schema)
        except MlflowException as error:
            return error.get_http_status_code(), json.loads(error.serialize_as_json())["message"]
        return answer.status, json.loads(answer.response)["predictions"]


@pytest.fixture(scope="module", params=PREPARED)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    root = tmp_path_factory.mktemp("project")
    for number in range(36):
        place = ("train" if number < 24 else "test") + f"/{'abc'[number % 3]}"
        (root / "images" / place).mkdir(parents=True, exist_ok=True)
        photo(60 + number, 50).save(root / "images" / place / f"{number}.png")
    options = {"dataset": "imagefolder", "num_labels": 9, "data__image_size": 16}
    options |= {"data__channels": 3, "data__val_fraction": 0.4, "backbone__patch_size": 4}
    project = Project(root, root / "images", **(options | PREPARED[request.param]))
    return made(project)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return made(Project(tmp_path_factory.mktemp("digits")))


def made(project: Project) -> Served:
    _save(open_model(project.run), project.run, project.root / "served")
    return Served(project, load_model(str(project.root / "served")))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("odd")
    paths = {name: folder / f"{place}.img" for place, name in enumerate(ODD | BROKEN)}
    for name, path in paths.items():
        path.write_bytes((ODD | BROKEN)[name]())
    return paths


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_an_odd_image_is_what_predict_makes_of_it(served: Served, odd: dict[str, Path]) -> None:
    said: dict[str, list[float]] = {}
    bad: list[str] = []
    trained = open_model(served.project.run)
    predict_files(
        trained,
        [str(path) for path in odd.values()],
        on_batch=lambda paths, out: said.update(
            zip(paths, out.probabilities.tolist(), strict=True)
        ),
        on_bad=lambda path, reason: bad.append(path),
        progress=lambda done, total: None,
        batch_size=7,
        device="cpu",
    )
    assert bad == [str(odd[name]) for name in BROKEN]
    status, answers = served.post(inputs=[text(odd[name].read_bytes()) for name in ODD])
    assert status == 200
    dataset = trained.info.dataset
    for name, answer in zip(ODD, answers, strict=True):
        expected = said[str(odd[name])]
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-6), name
        assert answer["class"] == dataset.class_names[int(np.argmax(expected))], name
        with open_file(odd[name]) as image:  # its pixels, decoded by whoever asks
            whole = convert(image, dataset.channels, dataset.white_level)
        pixels = np.atleast_3d(np.asarray(whole))
        (by_pixels,) = served.model.predict(pixels[None])["probabilities"]
        assert by_pixels == pytest.approx(expected, abs=1e-6), name
    spread = np.ptp([answer["probabilities"] for answer in answers], axis=0)
    assert spread.max() > 0.01  # the model does not say the same of all


@pytest.mark.parametrize("name", BROKEN)
def test_what_predict_cannot_decode_is_refused_in_one_line(
    name: str, served: Served, odd: dict[str, Path]
) -> None:
    good, broken = text(mode("RGB")), text(odd[name].read_bytes())
    status, line = served.post(inputs=[good, broken])
    assert status == 400
    assert line.startswith("image 1 ")
    assert "\n" not in line
    assert len(line) < 200


def ways(content: str) -> Iterator[dict[str, Any]]:
    """Every form in which MLflow's protocol can hold one encoded image."""
    yield {"inputs": [content]}
    yield {"inputs": content}
    yield {"inputs": {"image": [content]}}
    yield {"instances": [content]}
    yield {"dataframe_split": {"columns": ["image"], "data": [[content]]}}
    yield {"dataframe_records": [{"image": content}]}


def test_every_form_of_request_gives_the_same_answer(digits: Served) -> None:
    assert digits.project.prepared.images is not None
    pixels = digits.project.prepared.images[0]
    content = text(encoded(Image.fromarray(pixels[..., 0]), "PNG"))
    wrapped = "data:image/png;base64," + "\n".join(
        content[i : i + 76] for i in range(0, len(content), 76)
    )
    (expected,) = digits.post(inputs=[pixels.tolist()])[1]
    for form in (content, wrapped):
        for body in ways(form):
            assert digits.post(**body) == (200, [expected]), body
    for array in (pixels[None], pixels[None].astype(np.int64), pixels[None].astype(float)):
        assert digits.model.predict(array).to_dict("records") == [expected]
    binary = pd.DataFrame({"image": [base64.b64decode(content)]})
    assert digits.model.predict(binary).to_dict("records") == [expected]


def test_images_of_different_sizes_and_kinds_share_a_request(digits: Served) -> None:
    images = [noise(h, w, 1).tolist() for h, w in ((8, 8), (8, 9), (12, 8), (30, 20))]
    content = text(encoded(photo(), "PNG"))
    single = [digits.post(inputs=[each])[1][0]["probability"] for each in (*images, content)]
    for part in (slice(None), slice(1, 3)):
        status, answers = digits.post(inputs=[*images, content][part])
        assert status == 200
        assert [a["probability"] for a in answers] == pytest.approx(single[part], abs=1e-6)


def test_more_images_than_a_pass_holds(digits: Served) -> None:
    assert digits.project.prepared.images is not None
    many = digits.project.prepared.images[:150]
    answers = digits.model.predict(many)
    assert len(answers) == 150
    last = digits.model.predict(many[-1:])
    assert answers["probability"].iloc[-1] == pytest.approx(last["probability"].iloc[0], abs=1e-6)


GOOD = np.full((8, 8, 1), 200)


def changed(value: Any) -> list[Any]:
    pixels = GOOD.tolist()
    pixels[3][4][0] = value
    return pixels


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ((GOOD / 255).tolist(), "the value 0.78431.*; send integers in 0..255"),
        (((GOOD - 127.5) / 255).tolist(), "the value 0.28431.*; send integers"),
        (changed(0.5), "the value 0.5; send integers"),
        (changed(-1), "the value -1; send integers"),
        (changed(256), "the value 256; send integers"),
        (changed(float("nan")), "the value nan; send integers"),
        (changed(float("inf")), "the value inf; send integers"),
        (changed(10**30), "values that are not numbers"),
        (changed("200"), "values that are not numbers"),
        (changed(None), "values that are not numbers"),
        ((GOOD > 1).tolist(), "values that are not numbers"),
        (GOOD.repeat(3, 2).tolist(), r"the shape \[8, 8, 3\]; send pixels \[height, width, 1\]"),
        (GOOD[..., 0].tolist(), r"the shape \[8, 8\]; send pixels"),
        (GOOD[:0].tolist(), "the shape"),
        ([[[1], [2]], [[1]]], "rows of different lengths"),
        ("photo.jpg", "is text, but not base64; encode the file's content"),
        ("", "is not an image of a known format"),
        (17, r"the shape \[\]; send pixels"),
        (None, r"the shape \[\]; send pixels"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image: Any, said: str, digits: Served) -> None:
    status, line = digits.post(inputs=[GOOD.tolist(), image])
    assert status == 400
    assert line.startswith("image 1 ")

    assert re.search(said, line), line
    assert "\n" not in line
    assert len(line) < 200


def test_a_request_without_images_is_refused(digits: Served) -> None:
    assert digits.post(inputs=[]) == (400, "the request contains no images")


def test_a_bomb_is_refused_as_predict_does(digits: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for width in (40, 90):  # Pillow warns of the first and refuses the second
        status, line = digits.post(inputs=[text(encoded(photo(width, 30), "PNG"))])
        assert status == 400
        assert "image 0 cannot be decoded" in line
        assert "\n" not in line


def test_the_example_of_the_model_can_be_posted_as_it_is(digits: Served) -> None:
    body = json.loads((digits.project.root / "served" / "serving_input_example.json").read_text())
    status, (answer,) = digits.post(**body)
    assert status == 200
    assert answer.keys() == {"class", "probability", "probabilities"}
