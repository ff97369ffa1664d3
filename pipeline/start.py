"""``start``: inspect a folder of images and write a params.yaml for it and this machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pipeline.overlay import complete
from pipeline.recipe import find, refuse_to_lose
from pipeline.round_trip import dump, parse
from pipeline.workspace import dvc_root
from semimae.files import write_text
from semimae.options.params import Params
from semimae.types import UserError

if TYPE_CHECKING:
    from semimae.ingest.survey import Survey

RECIPE = "own_images"
JOBS = 2  # settings that `make repro` trains at the same time
_SMALL = 48  # pixels; images up to this size are trained at 32 pixels
_FEWEST, _MOST = 200, 20_000  # steps
_STARTING = 90  # seconds per setting that processes need to start and to evaluate


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
    lengths, expected = _lengths(params, len(found.class_names), minutes)
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


def _lengths(params: Params, num_classes: int, minutes: float) -> tuple[list[Choice], float]:
    """Return the length of the runs, from this machine's speed, and the total in seconds."""
    from semimae.evaluation.speed import seconds_per_step

    points = {cell: first.variant for cell, (first, *_) in params.grid().items()}
    baselines = [c for c, v in points.items() if v in params.ablation.baseline.variant]
    cells = [cell for cell in points if cell not in baselines]
    methods = {cell.method: cell for cell in cells}
    seconds = {name: seconds_per_step(cell, num_classes) for name, cell in methods.items()}
    jobs = min(JOBS, os.cpu_count() or 1, len(cells))
    per_step = sum(seconds[cell.method] for cell in cells) / jobs
    # Baselines have their own length.
    fixed = sum(seconds_per_step(cell, num_classes) * cell.train.steps for cell in baselines)
    fixed = (fixed + _STARTING * len(points)) / jobs
    asked = (60 * minutes - fixed) / per_step
    steps = max(_FEWEST, min(_MOST, round(asked / 50) * 50))
    speeds = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
    reason = f"{minutes:g} minutes; a step takes {speeds}"
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
