"""predict, export, suggest-labels as their users call them."""

import base64
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from runs import Project
from safetensors import safe_open
from support import changed_params
from typer.testing import CliRunner, Result

from pipeline.__main__ import app
from pipeline.reporting.gallery import gallery
from pipeline.tables import table
from semimae.engine.infer import infer
from semimae.files import file_hash
from semimae.model import model_of
from semimae.model_file import save_model
from semimae.options.backbone import BackboneConfig
from semimae.types import UserError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def _in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project.root))
    monkeypatch.delenv("SEMIMAE_DATA", raising=False)


@pytest.fixture
def photos(project: Project, tmp_path: Path) -> Path:
    """Six digits in nested folders, hidden files, and one that is no image."""
    assert project.prepared.images is not None
    folder = tmp_path / "photos"
    (folder / "b" / ".hidden").mkdir(parents=True)
    for row, name in enumerate(("b/2.png", "b/.hidden/x.png", ".y.png", "a.PNG", "b/1.png")):
        Image.fromarray(project.prepared.images[row][..., 0]).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"hello")
    (folder / "notes.txt").write_text("no image by its name")
    return folder


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


# --- predict


def test_a_folder_is_searched_and_what_is_no_image_is_named(project: Project, photos: Path) -> None:
    result = run("predict", project.run, photos, code=1)
    said = rows(result.stdout)
    assert [os.path.relpath(row["path"], photos) for row in said] == ["a.PNG", "b/1.png", "b/2.png"]
    _, *named = result.stderr.splitlines()
    assert named == [
        f"{photos}/.y.png: hidden",
        f"{photos}/notes.txt: not an image (.txt)",
        f"{photos}/b/.hidden/: hidden",
        f"{photos}/broken.jpg: not an image of a known format",
    ]
    expected = infer(project.model, project.cell, project.prepared, np.array([3, 4, 0]))
    best = expected.probabilities.max(dim=1)
    assert [row["class"] for row in said] == [str(i) for i in best.indices.tolist()]
    values = [float(row["probability"]) for row in said]
    assert values == pytest.approx(best.values.tolist(), abs=2e-6)


def test_all_formats_say_the_same(project: Project, photos: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"t.{suffix}"
        run("predict", project.run, photos / "b", "--all", "--embedding", "--out", out)
    by_csv = rows((tmp_path / "t.csv").read_text())
    by_json = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist() == by_json
    numbers = ["probability", "embedding", *(f"p({c})" for c in range(10))]
    converted = [
        {k: json.loads(v) if k in numbers else v for k, v in row.items()} for row in by_csv
    ]
    assert converted == by_json
    for row in by_json:
        assert len(row["embedding"]) == project.cell.backbone.embed_dim
        assert sum(row[f"p({c})"] for c in range(10)) == pytest.approx(1.0, abs=1e-5)
        assert row["probability"] == row[f"p({row['class']})"]


def test_a_csv_file_lists_images_beside_it_or_in_a_root(
    project: Project, photos: Path, tmp_path: Path
) -> None:
    (photos / "list.csv").write_text("rank,path\n1,b/1.png\n2,b/1.png\n3,missing.png\n")
    result = run("predict", project.run, photos / "list.csv", photos / "b/1.png", code=1)
    assert [row["path"] for row in rows(result.stdout)] == [f"{photos}/b/1.png"]
    assert result.stderr.endswith(f"\n{photos}/missing.png: No such file or directory\n")
    moved = tmp_path / "moved.csv"
    (photos / "list.csv").rename(moved)
    result = run("predict", project.run, moved, "--root", photos, code=1)
    assert [row["path"] for row in rows(result.stdout)] == [f"{photos}/b/1.png"]


def test_it_says_which_model_answers(project: Project, photos: Path, tmp_path: Path) -> None:
    scores = json.loads((project.run / "linear_probe.json").read_text())["protocols"]["classifier"]
    tested = f"test top-1 {100 * scores['top1']['value']:.1f}% on {scores['num_images']} images"
    photo = photos / "a.PNG"
    said = run("predict", project.run, photo).stderr
    assert said.startswith(f"{project.run}: {project.cell.name} on digits; {tested}; ")
    assert "probabilities are not calibrated, since there were fewer than 30 validation" in said
    assert tested in run("export", project.run, tmp_path / "out", "--format", "timm").stdout
    copy = tmp_path / "copy.safetensors"
    shutil.copy(project.run / "train" / "model.safetensors", copy)
    assert "test score unknown" in run("predict", copy, photo).stderr


def test_a_page_shows_the_same_predictions(project: Project, photos: Path, tmp_path: Path) -> None:
    """As one file, whatever the images are called."""
    (photos / "a.PNG").rename(photos / "<img src=x>.png")
    page = tmp_path / "out.html"
    result = run("predict", project.run, photos, "--html", page, code=1)
    text = page.read_text()
    assert "<img src=x" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    lines = re.findall(r"^(\[.+\]),$", text, flags=re.MULTILINE)
    shown = [json.loads(line) for line in lines]
    said = rows(result.stdout)
    assert [(path, name) for path, name, *_ in shown] == [(r["path"], r["class"]) for r in said]
    assert [p for _, _, p, _ in shown] == [round(float(r["probability"]), 4) for r in said]
    for path, *_, picture in shown:
        ours = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), dtype=float)
        assert np.abs(ours - np.asarray(Image.open(path))).mean() < 12  # JPEG of 8 x 8 pixels
    assert f"const total = {len(said)}," in text


def test_it_abstains_below_a_probability(project: Project, photos: Path) -> None:
    plain = rows(run("predict", project.run, photos, code=1).stdout)
    values = sorted(float(row["probability"]) for row in plain)
    threshold = (values[0] + values[1]) / 2
    said = rows(run("predict", project.run, photos, "--abstain", threshold, code=1).stdout)
    for before, after in zip(plain, said, strict=True):
        sure = float(before["probability"]) >= threshold
        assert after == before | {"class": before["class"] if sure else ""}
    assert [row["class"] for row in said].count("") == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent", None, "does not exist; give images, folders or csv files"),
        ("list.csv", b"file\nx.png\n", "has columns file; one must be named path"),
        ("list.csv", b"path\n", "lists no images"),
        ("list.csv", b"path\n\xff\n", "cannot be read"),
    ],
)
def test_an_argument_that_leads_nowhere_ends_it(
    name: str, content: bytes | None, said: str, project: Project, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        run("predict", project.run, tmp_path / name)


def test_a_folder_without_images_ends_it(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no images"):
        run("predict", project.run, tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        UserError, match=r"contains no images: .*notes\.txt \(not an image \(\.txt\)\)"
    ):
        run("predict", project.run, tmp_path)


def test_every_file_of_a_folder_has_a_line(project: Project, photos: Path, tmp_path: Path) -> None:
    """Whatever lies there: links, pipes, names without suffix, HEIC, what systems leave behind."""
    (tmp_path / "more").mkdir()
    (photos / "a.PNG").rename(tmp_path / "more/linked.png")
    (photos / "link").symlink_to(tmp_path / "more")
    (photos / "loop").symlink_to(photos)
    (photos / "b/1.png").rename(photos / "b/1.png?width=8")
    (photos / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (photos / "two\nlines.txt").touch()
    (photos / "__MACOSX").mkdir()
    os.mkfifo(photos / "pipe.png")
    result = run("predict", project.run, photos, code=1)
    done = [os.path.relpath(row["path"], photos) for row in rows(result.stdout)]
    assert done == ["b/1.png?width=8", "b/2.png", "link/linked.png"]
    _, *lines = result.stderr.splitlines()  # the first says which model answers
    named = {os.path.relpath(line.split(": ")[0], photos) for line in lines}
    assert named == {
        ".y.png",
        "IMG_1.HEIC",
        "__MACOSX",
        "b/.hidden",
        "broken.jpg",
        "loop",
        "notes.txt",
        "pipe.png",
        "two\\nlines.txt",
    }


def test_only_images_that_cannot_be_read_are_errors(project: Project, photos: Path) -> None:
    (photos / "broken.jpg").unlink()
    run("predict", project.run, photos)


def test_a_table_with_another_header_gets_a_hint(project: Project, tmp_path: Path) -> None:
    for text, said in (("path;rank\n", "save it with commas"), ("Path\n", "instead of 'Path'")):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(UserError, match=said):
            run("predict", project.run, tmp_path / "list.csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_appears_whole_or_not_at_all(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"t.{suffix}"
    out.write_text("of before")
    with pytest.raises(KeyError), table(out, ["a"]) as write:
        write([{"a": 1}, {"b": 1}])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of before"]
    with table(out, ["a"]):
        pass
    assert out.read_bytes() != b"of before"


def test_other_suffixes_are_refused(project: Project, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the suffix must be one of \.csv, \.jsonl, \.parquet"):
        run("predict", project.run, photos, "--out", tmp_path / "t.xlsx")


# --- export


def test_an_export_has_a_card_that_says_what_is_known(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("export", project.run, out, "--format", "timm")
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "config.json", "MODEL_CARD.md"}
    card = (out / "MODEL_CARD.md").read_text()
    scores = json.loads((project.run / "linear_probe.json").read_text())["protocols"]["classifier"]
    top1 = scores["top1"]
    said = f"{100 * top1['value']:.1f} ({100 * top1['low']:.1f} to {100 * top1['high']:.1f})"
    assert f"| The model | {scores['num_images']} | {said} |" in card
    assert "40 were used with their labels" in card
    assert "Trained from scratch" in card
    assert project.prepared.info.fingerprint in card
    assert 'timm.create_model("local-dir:FOLDER"' in card
    assert "model.onnx" not in card
    with safe_open(out / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith(("mim", "backbone"))]  # noqa: SIM118
    run("export", project.run / "train" / "model.safetensors", out, "--format", "timm")  # replaces


def test_the_card_says_where_the_backbone_began(project: Project, tmp_path: Path) -> None:
    start = project.run / "train" / "model.safetensors"
    settings = {"backbone__weights": str(start), "backbone__tuning": "bitfit"}
    cell = changed_params(**settings).cell().with_weights_hash(Path())
    copy = tmp_path / "copy.safetensors"
    save_model(model_of(cell, project.prepared), cell, project.prepared.info, copy)
    run("export", copy, tmp_path / "out", "--format", "timm")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    expected = (
        r"All 30 tensors of the backbone without its classifier \(6,960 values, 100%\) began as "
        rf"those of `{start}` \(SHA-256 {file_hash(start)}\), of its part `backbone\.vit`, whose "
        r"names are timm's\. Of them, the biases alone were trained further\. License: not known"
    )
    assert re.search(expected, card)


def test_a_copied_file_is_exported_without_scores(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((project.run / "train" / "model.safetensors").read_bytes())
    run("export", copy, tmp_path / "out", "--format", "timm")
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "None: the model was exported without its run's" in card


def test_a_refused_format_leaves_the_others(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: BackboneConfig, *sizes: int) -> None:
        raise UserError("timm has no such model.")

    monkeypatch.setattr("semimae.inference.timm_folder.timm_model", refuse)
    out = tmp_path / "out"
    result = run("export", project.run, out, "--format", "timm", "--format", "torch", code=1)
    assert result.stderr == "timm: timm has no such model.\n"
    assert {path.name for path in out.iterdir()} == {"model.pt2", "MODEL_CARD.md"}
    with pytest.raises(UserError, match="timm has no such model"):
        run("export", project.run, tmp_path / "none", "--format", "timm")
    assert not (tmp_path / "none").exists()


def test_a_foreign_folder_is_not_replaced(project: Project, tmp_path: Path) -> None:
    (tmp_path / "work.txt").write_text("mine")
    with pytest.raises(UserError, match="was not written by `export`"):
        run("export", project.run, tmp_path)
    assert (tmp_path / "work.txt").read_text() == "mine"


# --- suggest-labels


def test_suggestions_are_unlabeled_and_in_order(project: Project) -> None:
    said = rows(run("suggest-labels", "--count", "7").stdout)
    assert [row["rank"] for row in said] == list("1234567")
    places = [project.prepared.names.index(row["path"]) for row in said]
    assert not {*project.split.labeled, *project.split.val} & set(places)
    assert set(project.prepared.splits[places].tolist()) == {"train"}
    expected = infer(project.model, project.cell, project.prepared, np.array(places))
    best = expected.probabilities.max(dim=1)
    assert [row["class"] for row in said] == [str(i) for i in best.indices.tolist()]
    assert [float(r["confidence"]) for r in said] == pytest.approx(best.values.tolist(), abs=2e-6)
    assert {row["label"] for row in said} == {""}
    assert said == rows(run("suggest-labels", project.run, "--count", "7").stdout)


def test_suggestions_as_tasks_and_as_a_page_are_those_of_the_table(
    project: Project, tmp_path: Path
) -> None:
    said = rows(run("suggest-labels", "--count", "5").stdout)
    out, html = tmp_path / "todo.json", tmp_path / "todo.html"
    done = run(
        *("suggest-labels", "--count", "5", "--out", out, "--html", html),
        *("--format", "label-studio"),
    )
    made = json.loads(out.read_text())
    assert [task["data"]["image"].partition("?d=")[2] for task in made] == [r["path"] for r in said]
    guesses = [task["predictions"][0]["result"][0]["value"]["choices"] for task in made]
    assert guesses == [[row["class"]] for row in said]
    assert '<Choice value="9"/>' in (tmp_path / "todo.xml").read_text()
    assert all(f'"path": "{row["path"]}"' in html.read_text() for row in said)
    assert done.stderr.count("has 5 of") == 2


def test_tasks_need_a_file_of_json(project: Project) -> None:
    with pytest.raises(UserError, match=r"--format label-studio needs --out FILE\.json"):
        run("suggest-labels", "--format", "label-studio")


def test_a_page_of_predictions_is_headed_by_any_title(tmp_path: Path) -> None:
    """Also by one that holds the words that the page is filled in at."""
    title = "Predictions of IMAGES/TOTAL/TITLE for 1 images"
    with gallery(tmp_path / "page.html", title) as show:
        show([("a.png", "cat", 0.5, np.zeros((8, 8, 1), np.uint8))])
    text = (tmp_path / "page.html").read_text()
    assert text.count(title) == 2
    assert "const total = 1," in text
