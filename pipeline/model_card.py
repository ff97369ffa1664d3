"""The model card of an export: what the model is, what it was scored on, how to load it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

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


def model_card(trained: "Trained", run: Path, formats: list[str]) -> str:
    """Return the card's text.

    Args:
        trained: The model.
        run: The run's folder. What is not there, as with a copied file, is left out.
        formats: Those that were written.
    """
    from semimae.evaluation.metrics import Scores

    split = _read(run / "split.json")
    protocols = _read(run / "linear_probe.json").get("protocols", {})
    scores = {
        name: Scores.model_validate(protocols[name], strict=False)
        for name in _PROTOCOLS
        if name in protocols  # without enough validation images, none is calibrated
    }
    weakest = None
    if scores:
        names = trained.info.dataset.class_names
        recalls = zip(names, scores["classifier"].per_class, strict=True)
        weakest = min(recalls, key=lambda recall: recall[1].value)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=jinja2.select_autoescape(),  # which Markdown is not
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"n": "{:,}".format, "interval": _interval}
    return environment.get_template("model_card.md.j2").render(
        info=trained.info,
        center=trained.center,
        probabilities=probabilities_are(trained),
        split={"folds": (), **split} if split else None,
        scores=[(_PROTOCOLS[name], found) for name, found in scores.items()],
        weakest=weakest,
        tunings=_TUNINGS,
        formats=formats,
        identity=cell_id(run) if split and (run / "config.json").is_file() else None,
        commit=git_commit(run),
    )


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


def _interval(estimate: "Estimate", scale: float, digits: int) -> str:
    value, low, high = (
        f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file, or nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run `dvc repro`.") from None
