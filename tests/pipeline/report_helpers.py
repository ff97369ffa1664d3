"""Runs as the stages leave them, with invented numbers, and a reader of the page."""

import base64
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline.report as stage
from semimae.evaluation.metrics import score
from semimae.options.backbone import CNNConfig
from semimae.options.cell import Cell
from semimae.options.grid import BaselineConfig
from semimae.options.params import Params

REPO = Path(__file__).parents[2]
PARAMS = Params.read(REPO / "params.yaml")
CLASSES = ["<script>alert(1)</script>", "a|b", "$x$", "tench, Tinca tinca", "4"]
COMMIT = "c0ffee" + 34 * "0"
MACHINE = {
    "code": "12345678",
    "torch": "2.0",
    "device": "cpu",
    "device_name": "x86_64",
    "processes": 1,
    "threads": 2,
    "flops": 3 * 10**12,
}
Workspace = Any  # a function that writes params, dataset and runs


def ablation(**lists: Any) -> Params:
    base = {
        "method": ["supervised", "semi_mae"],
        "mask_ratio": [0.5, 0.75],
        "label_fraction": [0.1],
        "seed": [0, 1, 2],
    }
    grid = PARAMS.ablation.model_copy(update=base | lists)
    fields = {"method": "semi_mae", "mask_ratio": 0.75, "label_fraction": 0.1, "seed": 0}
    return PARAMS.model_copy(update={"ablation": grid, "num_labels": None, **fields})


def with_small_cnn(width: int) -> Params:
    """The same, with a convolutional network as a baseline."""
    backbone = {"name": "cnn", "width": width, "depth": 4, "weights": None}
    return ablation(
        mask_ratio=[0.75],
        changes={"small_cnn": {"backbone": backbone}},
        baseline=BaselineConfig(method=["supervised"], variant=["small_cnn"]),
    )


def accuracy_of(cell: Cell) -> float:
    """Semi-MAE gains ten points or more, differently on each seed; its weight helps a little."""
    gain = 0.0 if cell.method == "supervised" else 0.1 + 0.01 * (cell.seed % 3)
    if isinstance(cell.backbone, CNNConfig):  # the wider, the better
        gain += 0.01 * cell.backbone.width
    ratio = 0.0 if cell.mask_ratio != 0.5 else -0.05
    gain += 0.001 * (cell.mim.branch.lambda_mim - 1) * (1 + cell.seed % 2) if cell.mim else 0.0
    return 0.6 + gain + ratio + 0.02 * cell.seed + 0.2 * num_labeled(cell) / 1000


def num_labeled(cell: Cell) -> int:
    """What a split of 1000 training images labels; a list is one of 300 names."""
    if cell.label_fraction is not None:
        return round(1000 * cell.label_fraction)
    return cell.num_labels or 300


def scores(accuracy: float, classes: int = len(CLASSES)) -> dict[str, Any]:
    labels = np.arange(200) % classes
    guess = np.where(np.arange(200) < round(200 * accuracy), labels, (labels + 1) % classes)
    probabilities = np.full((200, classes), 0.2 / (classes - 1))
    probabilities[np.arange(200), guess] = 0.8
    probabilities[0] = np.eye(classes)[guess[0]]
    return score(probabilities, labels).model_dump()


def predictions(part: str, right: int, images: int, classes: int) -> dict[str, Any]:
    """The first ``right`` images are classified correctly."""
    labels = np.arange(images) % classes
    guess = np.where(np.arange(images) < right, labels, (labels + 1) % classes)
    confidence = np.linspace(0.99, 0.3, images, dtype=np.float32)
    found = {"label": labels, "predicted": guess, "confidence": confidence}
    return {f"{part}_{name}": value for name, value in found.items()}


def examples(classes: int) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("L", (8, 8), 200).save(file, "png")
    png = base64.b64encode(file.getvalue()).decode()
    one = {"true": 0, "predicted": classes - 1, "true_probability": 0.01, "png": png}
    return [one | {"name": f"test/{i}.png", "confidence": 0.97 - i / 100} for i in range(5)]


def write_run(
    folder: Path, cell: Cell, classes: int = len(CLASSES), val: tuple[int, int] | None = None
) -> None:
    """Write a run's files; ``val`` is how many validation images are right, of how many."""
    train = folder / "train"
    train.mkdir(parents=True)
    cell.write(folder / "config.json")
    accuracy = accuracy_of(cell)
    right, num_val = val or (round(200 * accuracy), 200)
    val_top1 = right / num_val if val else accuracy
    split = {"fingerprint": "f1", "seed": cell.seed, "num_unlabeled": 900}
    split["labeled"] = list(range(10, 10 + num_labeled(cell)))
    held_out = list(range(2000, 2000 + num_val))
    folds = cell.data.folds or int(cell.refit)
    split["val"] = [] if folds else held_out
    split["folds"] = [held_out[i::folds] for i in range(folds)]
    semi = cell.method != "supervised"
    pseudo = {
        "pseudo/coverage": 0.5,
        "pseudo/threshold": 0.8,
        "pseudo/accuracy": 0.9,
        "pseudo/accuracy_all": 0.7,
        "loss/reconstruction": 0.6,
        "gradient/supervised": 1.5,
        "gradient/consistency": 0.5,
        "gradient/cosine": 0.1,
    } | {f"pseudo/class_coverage/{i}": 0.5 / classes for i in range(classes)}
    history = [
        {"step": s, "loss/total": 2 / s, "loss/supervised": 1 / s}
        | {name: value * s / 20 for name, value in pseudo.items() if semi}
        for s in (10, 20)
    ]
    validation = [
        {
            "step": s,
            "val/top1": val_top1 - 0.1 + s / 200,
            "val/loss": 1.0,
            "val/teacher_gain": s / 1000,
        }
        | ({"val/pseudo_accuracy": 0.55 + s / 100, "val/pseudo_coverage": s / 50} if semi else {})
        for s in (10, 20)
    ]
    timing = [
        {"step": s, "time_ms": 1000 * s, "seconds": s / 10, "cpu_seconds": s / 20}
        for s in (10, 20, 10, 20)
    ]
    probe = {"pool": "token", "l2": 0.1, "temperature": 1.5, "protocols": {}}
    probe["examples"] = examples(classes)
    for i, protocol in enumerate(("classifier", "linear_probe", "knn")):
        probe["protocols"][protocol] = scores(accuracy - 0.01 * i, classes)
    probe["protocols"]["calibrated"] = probe["protocols"]["classifier"]
    of_images = predictions("test", round(200 * accuracy), 200, classes)
    of_val = predictions("val", right, num_val, classes) | {"val_row": np.array(held_out)}
    if not cell.data.folds:  # each seed has its own
        of_val["val_row"] += 1000 * cell.seed
    np.savez(folder / "predictions.npz", **of_images, **of_val)
    for path, value in (
        (folder / "split.json", split),
        (folder / "linear_probe.json", probe),
        (train / "history.json", history),
        (train / "validation.json", validation),
        (train / "timing.json", timing),
        (train / "origin.json", {"mlflow.source.git.commit": COMMIT}),
        (train / "machine.json", MACHINE),
    ):
        path.write_text(json.dumps(value))
    if cell.mask_ratio:
        image = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
        np.savez(folder / "reconstructions.npz", original=image, masked=image, reconstructed=image)


def build_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Enter a workspace; the report that is made there goes to no MLflow."""
    finished: list[Any] = []
    monkeypatch.setattr(stage, "finish_pipeline", lambda *given: finished.append(given))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def build(params: Params, classes: list[str] | None = None, headline: bool = True) -> None:
        names = CLASSES if classes is None else classes
        (tmp_path / "params.yaml").write_text(params.model_dump_json())
        info = {"name": "fake", "fingerprint": "f1", "num_classes": len(names), "image_size": 8}
        info |= {
            "channels": 1,
            "packed": True,
            "cache_size": None,
            "white_level": None,
            "class_names": names,
        }
        info |= {"mean": [0.5], "std": [0.5]}
        info |= {
            "counts": {"train": 1000, "test": 200},
            "num_skipped": 0,
            "duplicates_test_train": 0,
        }
        (tmp_path / "prepared").mkdir(exist_ok=True)
        (tmp_path / "prepared" / "dataset.json").write_text(json.dumps(info))
        for budget in params.ablation.budget:
            for cell, (first, *_) in params.grid(budget).items():
                write_run(tmp_path / "runs" / first.folder, cell, len(names))
        if headline:
            write_run(tmp_path / "runs" / "headline", params.cell(), len(names))

    build.finished = finished  # type: ignore[attr-defined]
    return build


def report() -> tuple[str, list[dict[str, str]], dict[str, Any]]:
    stage.report(Path("reports"))
    with Path("reports/ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    page = Path("reports/index.html").read_text()
    return page, rows, json.loads(Path("reports/summary.json").read_text())


class Reader(HTMLParser):
    """Collects tags, and fails on tags that are not closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader
