"""Images go out to be labeled, to Label Studio or to a page, and their labels come back."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from support import changed_params
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.labeling.label_studio import labeling_config, read_export, tasks
from pipeline.labeling.page import page
from pipeline.labeling.suggestion import Suggestion
from semimae.types import UserError

NAMES = ["unlabeled/a b.png", "unlabeled/50% & more/ä?d=#1.jpg"]
SUGGESTED = [Suggestion(name, rank, "cat", 0.625) for rank, name in enumerate(NAMES, start=1)]


def annotation(*choices: str, **more: object) -> dict[str, Any]:
    """As Label Studio 1.23 exports it, less keys that do not matter here."""
    result = [
        {
            "id": "x",
            "type": "choices",
            "value": {"choices": list(choices)},
            "to_name": "image",
            "from_name": "label",
        }
    ]
    return {"id": 1, "result": result if choices else [], "was_cancelled": False, **more}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_task_leads_to_its_image_and_back(tmp_path: Path) -> None:
    made = tasks(SUGGESTED, "semi_mae")
    assert [task["data"]["rank"] for task in made] == [1, 2]
    for task in made:
        assert re.fullmatch(r"/data/local-files/\?d=[\w/%.-]+", task["data"]["image"], re.ASCII)
        (guess,) = task["predictions"]
        assert guess["score"] == 0.625
        assert guess["result"][0]["value"] == {"choices": ["cat"]}
        task["annotations"] = [annotation("dog")]
    labels, without = read_export(write(tmp_path / "export.json", made))
    assert labels == [(name, "dog") for name in NAMES]
    assert without == 0


def test_the_interface_has_the_names_that_the_tasks_use() -> None:
    view = ElementTree.fromstring(labeling_config(["cat", 'a "big" <dog> & more']))
    image, choices = view.find("Image"), view.find("Choices")
    assert image is not None
    assert choices is not None
    result = tasks(SUGGESTED, "")[0]["predictions"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), image.get("name"))
    assert image.get("value") == "$image"
    assert choices.get("toName") == image.get("name")
    assert [c.get("value") for c in choices] == ["cat", 'a "big" <dog> & more']


def test_tasks_that_nobody_has_labeled_are_counted(tmp_path: Path) -> None:
    task = {"id": 5, "data": {"image": "/data/local-files/?d=unlabeled/1.png"}}
    skipped = annotation("cat", was_cancelled=True)
    exported = [task | {"annotations": given} for given in ([], [skipped], [annotation()])]
    exported.append(task | {"annotations": [skipped, annotation("dog")]})
    assert read_export(write(tmp_path / "e.json", exported)) == ([("unlabeled/1.png", "dog")], 3)


def test_the_short_form_of_an_export(tmp_path: Path) -> None:
    image = "/data/local-files/?d=unlabeled/1.png"
    exported = [{"image": image, "id": 1, "label": "dog"}, {"image": "unlabeled/2.png", "id": 2}]
    assert read_export(write(tmp_path / "e.json", exported)) == ([("unlabeled/1.png", "dog")], 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image": 1}, "does not hold a list of tasks; export it"),
        ([1], "does not hold a list of tasks"),
        ([{"id": 7}], "task 7 has no image and choices as expected"),
        ([{"id": 7, "data": {"image": 3}, "annotations": []}], "task 7 has no image"),
        ([{"id": 7, "data": {"image": "x"}, "annotations": [{}]}], "task 7 has no image"),
        (
            [{"id": 7, "data": {"image": "x"}, "annotations": [annotation("cat", "dog")]}],
            "task 7 has 2 classes; each image needs one",
        ),
        ([{"id": 7, "image": "x", "label": {"choices": ["a", "b"]}}], "task 7 has 2 classes"),
    ],
)
def test_what_is_not_an_export_is_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read_export(write(tmp_path / "e.json", content))


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text("path,label\n")
    with pytest.raises(UserError, match=r"e\.json cannot be read .*export it from Label Studio"):
        read_export(tmp_path / "e.json")


def test_an_export_moves_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train/cat/0.png", "train/dog/0.png", *NAMES):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / "photos" / name, "PNG")
    (tmp_path / "dvc.yaml").touch()
    params = changed_params(dataset="imagefolder", data__root=str(tmp_path / "photos"))
    (tmp_path / "params.yaml").write_text(params.model_dump_json())
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    first, second = tasks(SUGGESTED, "")
    first["annotations"], second["annotations"] = [annotation("dog")], []
    file = write(tmp_path / "export.json", [first, second])
    done = CliRunner().invoke(app, ["add-labels", str(file)])
    assert done.exit_code == 0, done.exception
    assert "Labeled: 1." in done.stdout
    assert f"Still without a label in {file}: 1." in done.stdout
    assert (tmp_path / "photos/train/dog/a b.png").is_file()
    assert (tmp_path / "photos" / NAMES[1]).is_file()


def test_the_page_holds_its_images_and_no_text_can_break_it() -> None:
    names = ["</script><b>.png", *NAMES]
    pictures = [np.full((40, 80, 3), 200, np.uint8), np.zeros((12, 12, 1), np.uint8)]
    shown = [Suggestion(name, 1, "cat", 0.5) for name in names[:2]]
    text = page(shown, pictures, ["cat", "</script>"])
    assert text.count("</script>") == 2  # the page's own two
    assert not re.search(r"(src|href)=[\"']?https?:", text)
    data = re.search(r'<script type="application/json" id="data">(.+)</script>', text)
    assert data
    content = json.loads(data[1])
    assert content["classes"] == ["cat", "</script>"]
    assert [image["path"] for image in content["images"]] == names[:2]
    sizes = []
    for image in content["images"]:
        head, _, encoded = image["picture"].partition(",")
        assert head == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(encoded))).size)
    assert sizes == [(160, 80), (216, 216)]
