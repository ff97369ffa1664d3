"""``start``: inspect a folder of images and write a params.yaml for it and this machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline.overlay import complete
from pipeline.recipe import find, refuse_to_lose
from pipeline.round_trip import dump, parse
from pipeline.workers import gpus, slots
from pipeline.workspace import dvc_root
from semimae.files import write_text
from semimae.options.grid import PLAIN
from semimae.options.params import Params
from semimae.types import UserError

if TYPE_CHECKING:
    from semimae.ingest.survey import Survey

RECIPE = "own_images"
_SMALL = 48  # pixels; images up to this size are trained at 32 pixels
_FEWEST, _MOST = 200, 20_000  # steps
# Seconds per setting beside its training: docs/performance.md, the cost of starting.
_BESIDE = 10
_FOLDS = (5, 3)  # of cross-validation, the first that there is time for
_COARSE = 0.05  # a difference in accuracy that validation should be able to show


class Timed(NamedTuple):
    """A setting of the grid or a baseline, and the seconds that a step of it takes here."""

    method: str
    variant: str
    seconds: float
    steps: int | None  # of a baseline, which has its own length


class Choice(NamedTuple):
    """A value for params.yaml, and why it was chosen."""

    key: str
    value: Any
    reason: str


def start(
    folder: Annotated[
        Path, typer.Argument(help="The folder that contains train/, or a csv table of images.")
    ],
    minutes: Annotated[
        float, typer.Option(min=1, max=100_000, help="Time budget for all training, in minutes.")
    ] = 30,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite params.yaml even if it has uncommitted changes."),
    ] = False,
) -> None:
    """Choose settings for your images and write params.yaml.

    They depend on the images and on how fast this machine trains. Each choice is printed and
    written to params.yaml, together with its reason.

    Example: python -m pipeline start ~/photos --minutes 30
    """
    from semimae.ingest.survey import survey

    root = dvc_root()
    recipe = find(root, RECIPE).path
    text = complete(recipe)
    params = Params.parse(text, recipe)
    where = _where(folder)
    data = params.data.model_copy(update={c.key.partition(".")[2]: c.value for c in where[1:]})
    target = root / "params.yaml"
    if not force:
        refuse_to_lose(target)
    found = survey(where[0].value, data, Path(where[1].value))
    typer.echo(_seen(found))
    choices = [*where, *_choose(found, params)]
    params = Params.parse(_changed(text, choices), target)
    typer.echo("Measuring how long a training step takes on this machine ...")
    timed = _timed(params, len(found.class_names))
    choices += _validation(found, params, timed, minutes)
    params = Params.parse(_changed(text, choices), target)
    lengths, expected = _lengths(timed, params, minutes)
    choices += lengths
    written = _changed(text, choices)
    Params.parse(written, target)
    write_text(target, written)
    for choice in choices:
        typer.echo(f"  {choice.key}: {choice.value}  ({choice.reason})")
    typer.echo(
        f"Wrote {target.name}; all other settings come from recipe {RECIPE}. Training will take "
        f"about {expected / 60:.0f} minutes.\nNext: make repro"
    )


def _where(folder: Path) -> list[Choice]:
    """Return dataset and data.root, and for a table also data.manifest."""
    path = folder.expanduser().absolute()
    if path.is_dir():
        return [
            Choice("dataset", "imagefolder", "you gave a folder"),
            Choice("data.root", str(path), "the folder that you gave"),
        ]
    if path.is_file() and path.suffix.lower() == ".csv":
        return [
            Choice("dataset", "csv", "you gave a table"),
            Choice("data.root", str(path.parent), "the folder of the table"),
            Choice("data.manifest", path.name, "the table that you gave"),
        ]
    kind = "neither a folder nor a .csv file" if path.exists() else "missing"
    raise UserError(
        f"{path} is {kind}; give the folder that contains train/, or a csv table of images."
    )


def _seen(found: "Survey") -> str:
    counts = ", ".join(f"{number:,} {split}" for split, number in found.counts.items())
    lines = [
        f"{len(found.class_names)} classes; images: {counts}; {found.num_labeled:,} labeled for "
        f"training, {found.fewest} in the smallest class.",
        f"In a sample of {found.num_opened} images, the median shorter side is "
        f"{found.shorter_side} px; they are {'grayscale' if found.is_gray else 'in color'}.",
    ]
    if found.num_unreadable:
        lines.append(f"{found.num_unreadable} of them cannot be read; `prepare` will list them.")
    if found.num_skipped:
        lines.append(
            f"Files and folders that are not images: {found.num_skipped}. `prepare` lists them."
        )
    if not found.counts.get("unlabeled") and found.num_labeled == found.counts.get("train"):
        lines.append("There are no unlabeled images. Add some to unlabeled/ to learn from them.")
    return "\n".join(lines)


def _choose(found: "Survey", params: Params) -> list[Choice]:
    """Return the choices that follow from the images."""
    choices = []
    if found.is_gray:
        reason = f"all {found.num_opened} images in the sample are grayscale"
        choices.append(Choice("data.channels", 1, reason))
    side = f"the median shorter side is {found.shorter_side} px"
    if found.shorter_side <= _SMALL:
        choices += [
            Choice("data.image_size", 32, side),
            Choice("backbone.patch_size", 4, "8 x 8 patches, as with 64 px"),
            Choice("data.cache_size", None, "images this small are kept in memory"),
        ]
    taken = round(params.data.val_fraction * found.num_labeled)
    batch = params.train.batch_size
    while batch > 8 and batch > found.num_labeled - taken:
        batch //= 2
    if batch != params.train.batch_size:
        choices.append(Choice("train.batch_size", batch, f"{found.num_labeled} labels"))
    return choices


def _timed(params: Params, num_classes: int) -> list[Timed]:
    """Measure a step of each setting of the grid and the baselines on this machine."""
    from semimae.evaluation.speed import seconds_per_step

    own_length = params.ablation.baseline.variant
    return [
        Timed(
            cell.method,
            first.variant,
            seconds_per_step(cell, num_classes),
            cell.train.steps if first.variant in own_length else None,
        )
        for cell, (first, *_) in params.grid().items()
    ]


def _steps(timed: list[Timed], params: Params, minutes: float) -> tuple[float, float, float]:
    """Return the steps that there is time for, and in seconds: of one such step, of all else."""
    devices = [] if params.train.device == "cpu" else gpus("auto")
    jobs = len(slots(None, devices, 1, params.train.processes))
    jobs = min(jobs, len(timed), jobs if devices else os.cpu_count() or 1)
    trainings = params.cell().trainings  # as often as all others
    per_step = sum(trainings * each.seconds for each in timed if each.steps is None)
    fixed = _BESIDE * len(timed) + sum(trainings * t.seconds * t.steps for t in timed if t.steps)
    return (60 * minutes * jobs - fixed) / per_step, per_step / jobs, fixed / jobs


def _validation(
    found: "Survey", params: Params, timed: list[Timed], minutes: float
) -> list[Choice]:
    """Choose folds where validation images are too few, if there is time for as many steps."""
    from pipeline.reporting.statistics import FEWEST  # its imports take a second

    tested = 0.0 if found.counts.get("test") else params.data.test_fraction
    number = max(1, round(params.data.val_fraction * (1 - tested) * found.num_labeled))
    if found.counts.get("val") or FEWEST / number <= _COARSE or found.fewest < 2:
        return []
    images = f"{number} validation image{'s' * (number != 1)}"
    for folds in _FOLDS:
        data = params.data.model_copy(update={"folds": folds})
        tried = params.model_copy(update={"data": data, "refit": True})
        steps, _, _ = _steps(timed, tried, minutes)
        if steps >= params.train.steps:
            return [
                Choice("data.folds", folds, f"{images} could not tell settings apart"),
                Choice("refit", True, "the final model learns from all labels"),
            ]
    typer.echo(
        f"{images} will not tell settings apart. Cross-validation would (data.folds: {folds} and "
        f"refit: true), but {minutes:g} minutes are too few for its {folds + 1} trainings of each "
        f"setting with {params.train.steps} steps: give more with --minutes."
    )
    return []


def _lengths(timed: list[Timed], params: Params, minutes: float) -> tuple[list[Choice], float]:
    """Return the length of the runs, from this machine's speed, and the total in seconds."""
    asked, per_step, fixed = _steps(timed, params, minutes)
    steps = max(_FEWEST, min(_MOST, round(asked / 50) * 50))
    plain = [each for each in timed if each.variant == PLAIN]
    text = ", ".join(f"{each.method} {1000 * each.seconds:.0f} ms" for each in plain)
    reason = f"{minutes:g} minutes; a step takes {text}"
    if steps == _FEWEST:
        reason += f"; fewer than {_FEWEST} steps would show nothing"
    choices = [
        Choice("train.steps", steps, reason),
        Choice("optim.warmup_steps", steps // 10, "a tenth of the steps"),
        Choice("train.eval_every", steps // 10, "ten points on the curve"),
        Choice("train.save_every", max(20, steps // 20), "an interruption costs little"),
    ]
    return choices, steps * per_step + fixed


def _changed(text: str, choices: list[Choice]) -> str:
    """Return a params file with the chosen values, each with its reason as a comment."""
    tree = parse(text, Path(RECIPE))
    for key, value, reason in choices:
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        node[name] = value
        node.yaml_add_eol_comment(reason, name, column=0)
    return dump(tree)
