"""The model card of an export: what the model is, what it was scored on, how to load it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.workspace import git_commit, read_json
from semimae.options.cell import cell_id
from semimae.types import UserError

if TYPE_CHECKING:
    from semimae.evaluation.metrics import Estimate
    from semimae.model_file import Trained

CARD = "MODEL_CARD.md"
_PROTOCOLS = {
    "classifier": "The model",
    "calibrated": "The model, its probabilities calibrated",
    "linear_probe": "Linear classifier on its features",
    "knn": "Nearest neighbors on its features",
    "batch_norm_probe": "Linear classifier with batch norm on its features",
    "attentive_probe": "Attentive probe on its patch tokens",
}
_TUNINGS = {
    "full": "All of them were trained further.",
    "lora": "They were frozen; low-rank changes to some matrices were trained and are merged.",
    "bitfit": "Of them, the biases alone were trained further.",
    "head": "They were frozen; the classifier alone was trained.",
}
_LOADING = {
    "timm": """\
timm (`model.safetensors`, `config.json`), from normalized images `[B, C, H, W]`:

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data, is_training=False)
logits = model(transform(image).unsqueeze(0))  # image: of PIL, in mode "MODE"
names = model.pretrained_cfg["label_names"]
```
""",
    "onnx": """\
ONNX (`model.onnx`), from uint8 pixels `[B, SIZE, SIZE, CHANNELS]`; it normalizes them itself:

```python
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(logits,) = session.run(["logits"], {"images": pixels})
```
""",
    "torch": """\
torch.export (`model.pt2`), from the same pixels:

```python
import torch

logits = torch.export.load("FOLDER/model.pt2").module()(torch.from_numpy(pixels))
```
""",
}


def model_card(trained: "Trained", run: Path, formats: list[str]) -> str:
    """Return the card's text.

    Args:
        trained: The model.
        run: The run's folder. What is not there, as with a copied file, is left out.
        formats: Those that were written.
    """
    cell, dataset = trained.info.cell, trained.info.dataset
    split = _read(run / "split.json")
    scores = _read(run / "linear_probe.json")
    identity = cell_id(run) if split and (run / "config.json").is_file() else None
    parts = [
        f"# {cell.name} on {dataset.name}\n",
        f"An image classifier with {dataset.num_classes} classes, trained with `{cell.method}` by "
        "Semi-MAE's pipeline.\n",
        "## Data\n",
        *_data(trained, split),
        "\n## Scores\n",
        *_scores(scores),
        "\n## Limits\n",
        *_limits(trained, scores),
        "\n## Start weights\n",
        f"{_start(trained)}\n",
        "## How to load it\n",
        f"FOLDER is this folder. {_pixels(trained)}\n",
        *(_loading(trained, name) for name in formats),
        "## Where it comes from\n",
        f"- Cell: {identity or 'unknown; the model was a copy without its run'}",
        f"- Commit that was checked out: {git_commit(run) or 'unknown'}",
        f"- Fingerprint of the images: {dataset.fingerprint}",
        "- Parameters:\n",
        f"```json\n{cell.model_dump_json(indent=1)}\n```",
    ]
    return "\n".join(parts) + "\n"


def which_model(trained: "Trained", path: Path) -> str:
    """Say in a line which model a path leads to, and how good it is."""
    from semimae.model_file import find_weights

    scores = _read(find_weights(path).parent.parent / "linear_probe.json")
    tested = "test score unknown: no linear_probe.json beside it"
    if scores:
        classifier = scores["protocols"]["classifier"]
        top1, images = 100 * classifier["top1"]["value"], classifier["num_images"]
        tested = f"test top-1 {top1:.1f}% on {images:,} images"
    cell, dataset = trained.info.cell, trained.info.dataset
    return f"{path}: {cell.name} on {dataset.name}; {tested}; {probabilities_are(trained)}."


def probabilities_are(trained: "Trained") -> str:
    """Say whether probabilities are calibrated."""
    from semimae.calibration import MIN_IMAGES

    temperature, cell = trained.info.temperature, trained.info.cell
    if temperature is None:
        images = "labeled" if cell.data.folds else "validation"
        return (
            f"probabilities are not calibrated, since there were fewer than {MIN_IMAGES} "
            f"{images} images"
        )
    images = "validation images"
    if cell.data.folds:
        images = f"labeled images held out in {cell.data.folds} folds"
    return f"probabilities are calibrated on {images} (temperature {temperature:.2f})"


def _data(trained: "Trained", split: dict[str, Any]) -> list[str]:
    cell, dataset = trained.info.cell, trained.info.dataset
    rows = ", ".join(f"{count:,} {name}" for name, count in dataset.counts.items() if count)
    lines = [f"- Images: {dataset.name}; {rows}."]
    if split:
        lines.append(
            f"- Of these, {len(split['labeled']):,} were used with their labels, "
            f"{split['num_unlabeled']:,} without, {_selection(split)} (seed {split['seed']})."
        )
    unlabeled = cell.train.steps * cell.num_unlabeled
    lines.append(
        f"- Training: {cell.train.steps:,} steps; {cell.train.steps * cell.train.batch_size:,} "
        f"labeled and {unlabeled:,} unlabeled images with repetitions."
    )
    names = ", ".join(dataset.class_names[:50])
    more = f" and {dataset.num_classes - 50} more" if dataset.num_classes > 50 else ""
    lines.append(f"- Classes: {names}{more}.")
    return lines


def _selection(split: dict[str, Any]) -> str:
    """Say which images the model was selected by."""
    folds = split.get("folds", ())
    if not folds:
        return f"{len(split['val']):,} for model selection"
    held_out = sum(map(len, folds))
    if len(folds) == 1:
        return (
            f"{held_out:,} of the labeled ones for model selection: a training before this one "
            "held them out, this one was on all labels and has no validation of its own"
        )
    return (
        f"all labeled ones for model selection: each was held out once by {len(folds)} trainings "
        "before this one, which was on all labels and has no validation of its own"
    )


def _scores(scores: dict[str, Any]) -> list[str]:
    from semimae.evaluation.metrics import Scores

    if not scores:
        return ["None: the model was exported without its run's `linear_probe.json`."]
    lines = [
        "| On the test set | Images | Top-1 % | Calibration error |",
        "| --- | --- | --- | --- |",
    ]
    for name, title in _PROTOCOLS.items():
        if name not in scores["protocols"]:  # too few validation images
            continue
        found = Scores.model_validate_json(json.dumps(scores["protocols"][name]))
        top1, ece = _interval(found.top1, 100, 1), _interval(found.ece, 1, 3)
        lines.append(f"| {title} | {found.num_images:,} | {top1} | {ece} |")
    return [*lines, "\nIn brackets: 95% intervals over the test images, for this one training run."]


def _interval(estimate: "Estimate", scale: float, digits: int) -> str:
    value, low, high = (
        f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def _limits(trained: "Trained", scores: dict[str, Any]) -> list[str]:
    dataset = trained.info.dataset
    lines = [
        "- Every image gets one of the classes, also one that shows none of them.",
        "- Images of other sources than the training images were not tried.",
        f"- Its {probabilities_are(trained)}; the calibration error says how far to trust them.",
    ]
    if scores:
        per_class = [entry["value"] for entry in scores["protocols"]["classifier"]["per_class"]]
        worst = min(range(len(per_class)), key=per_class.__getitem__)
        lines.append(
            f"- It is weakest on class {dataset.class_names[worst]}: "
            f"{100 * per_class[worst]:.1f}% of its test images are found."
        )
    if dataset.duplicates_test_train:
        lines.append(f"- {dataset.duplicates_test_train:,} test images are also in another split.")
    if dataset.num_skipped:
        lines.append(f"- {dataset.num_skipped:,} files could not be read and were left out.")
    return lines


def _start(trained: "Trained") -> str:
    """Say which part of the backbone came from where, and under which license."""
    backbone, report = trained.info.cell.backbone, trained.info.start
    if backbone.weights is None:
        return "Trained from scratch: there were none."
    origin, part = f"`{backbone.weights}`", ""
    digest = report.sha256 if report else trained.info.cell.weights_sha256
    if digest is not None:
        origin += f" (SHA-256 {digest})"
    if report is not None:
        place = f", of its part `{report.part}`" if report.part else ""
        part = (
            f"All {report.num_backbone:,} tensors of the backbone without its classifier "
            f"({report.num_values:,} values, 100%) began as those of {origin}{place}, whose names "
            f"are {report.layout}'s. "
        )
        part += "".join(f"Note: {note}. " for note in report.notes)
    trains = _TUNINGS[backbone.tuning]
    return f"{part or f'From {origin}. '}{trains} License: {_license(trained)}."


def _license(trained: "Trained") -> str:
    known = trained.info.start.license if trained.info.start else None
    return known or (
        "not known to this project; ask their authors. That of MAE's repository, for one, is "
        "CC-BY-NC-4.0"
    )


def _pixels(trained: "Trained") -> str:
    size, share = trained.info.dataset.image_size, trained.center
    part = "central square" if share == 1 else f"central square of {100 * share:g}% of its side"
    return (
        f"An image becomes pixels by cutting out its {part} and scaling that to {size} x {size} "
        "(bicubic, antialiased); timm's transform does the same, up to rounding."
    )


def _loading(trained: "Trained", name: str) -> str:
    dataset = trained.info.dataset
    mode = "L" if dataset.channels == 1 else "RGB"
    values = {"SIZE": str(dataset.image_size), "CHANNELS": str(dataset.channels), "MODE": mode}
    text = _LOADING[name]
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file, or nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run `dvc repro`.") from None
