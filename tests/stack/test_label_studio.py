"""A round of labeling through the real Label Studio, by its API as its pages use it."""

import json
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import Project
from services import Service, answers, free_port, wait_for
from typer.testing import CliRunner

from pipeline.__main__ import app

PROGRAM = os.environ.get("LABEL_STUDIO", "")
TOKEN = "0123456789abcdef0123456789abcdef01234567"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="`make stack-test` runs it"),
]


class Client:
    """Label Studio's API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> bytes:
        return self._send(urllib.request.Request(self.url + path))

    def post(self, path: str, content: object) -> Any:
        data = json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, method="POST")
        request.add_header("Content-Type", "application/json")
        return json.loads(self._send(request))

    def _send(self, request: urllib.request.Request) -> bytes:
        request.add_header("Authorization", f"Token {TOKEN}")
        with urllib.request.urlopen(request, timeout=120) as response:
            content: bytes = response.read()
        return content


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, and unlabeled images whose names need quoting in an address."""
    draws = np.random.default_rng(0)
    names = [f"train/{label}/{i}.png" for label in ("cat", "big dog") for i in range(12)]
    names += [f"unlabeled/50% & ä {i}.png" for i in range(4)]
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def label_studio(photos: Path, tmp_path: Path) -> Iterator[Client]:
    """As docs/how-to/label-studio.md starts it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    port = free_port()
    environment = os.environ | {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(photos),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
    }
    command = [PROGRAM, "start", "--no-browser", "--port", str(port)]
    command += ["--data-dir", str(tmp_path / "label-studio"), "--user-token", TOKEN]
    command += ["--username", "test@example.org", "--password", TOKEN]
    service = Service(command, tmp_path / "label-studio.log", dict(environment))
    service.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(service, lambda: answers(f"{url}/health") == 200)
        yield Client(url)
    finally:
        service.stop(signal.SIGKILL)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.exception or result.output
    return result.output


def answer(choice: str) -> dict[str, object]:
    result = {"from_name": "label", "to_name": "image", "type": "choices"}
    return {"result": [result | {"value": {"choices": [choice]}}]}


@pytest.mark.parametrize("form", ["JSON", "JSON_MIN"])
def test_a_round_of_labeling(
    form: str,
    label_studio: Client,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "project"
    changes = {"dataset": "imagefolder", "data__root": str(photos), "num_labels": 8}
    Project(folder, photos, **changes)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    run("suggest-labels", "--count", 4, "--out", "todo.json", "--format", "label-studio")

    project = label_studio.post(
        "/api/projects", {"title": "photos", "label_config": Path("todo.xml").read_text()}
    )["id"]
    storage = {"project": project, "path": str(photos / "unlabeled"), "use_blob_urls": True}
    label_studio.post("/api/storages/localfiles", storage)
    tasks = json.loads(Path("todo.json").read_text())
    assert label_studio.post(f"/api/projects/{project}/import", tasks)["task_count"] == 4

    listed = json.loads(label_studio.get(f"/api/tasks?project={project}&fields=all"))["tasks"]
    labeled = {}
    for task, label in zip(listed, ("cat", "big dog"), strict=False):
        (guess,) = task["predictions"]
        assert guess["result"][0]["value"]["choices"][0] in ("cat", "big dog")
        image = label_studio.get(task["data"]["image"])
        (name,) = (p.name for p in (photos / "unlabeled").iterdir() if p.read_bytes() == image)
        labeled[name] = label
        label_studio.post(f"/api/tasks/{task['id']}/annotations/", answer(label))

    options = f"exportType={form}&download_all_tasks=true"
    exported = label_studio.get(f"/api/projects/{project}/export?{options}")
    Path("export.json").write_bytes(exported)
    said = run("add-labels", "export.json")
    assert "Labeled: 2." in said
    assert re.search(r"Still without a label in .*: 2\.", said)
    for name, label in labeled.items():
        assert (photos / "train" / label / name).is_file()
    assert len(list((photos / "unlabeled").iterdir())) == 2

    Project(folder / "next", photos, **changes)  # the images are prepared and trained on again
    monkeypatch.chdir(folder / "next")
    monkeypatch.setenv("DVC_ROOT", str(folder / "next"))
    run("suggest-labels", "--count", 4, "--out", "todo.json", "--format", "label-studio")
    assert len(json.loads(Path("todo.json").read_text())) == 2
