"""Files that params.yaml refers to and that DVC may not track."""

from pathlib import Path

import typer

from semimae.options.params import Params
from semimae.types import UserError

LISTS = "lists"  # a dependency of stage `inputs` in dvc.yaml


def check_weights(params: Params, images: Path) -> None:
    """Check early that the weight files of the headline and the variants exist.

    The stage that reads them may run hours after the first one.

    Args:
        params: The settings.
        images: The data folder. Relative paths of weights start there.

    Raises:
        UserError: If a file is missing.
    """
    asked = [
        weights
        for variant in (params, *params.variants().values())
        for weights in (
            variant.backbone.weights,
            *(teacher.weights for teacher in variant.self_training.teachers),
        )
    ]
    for weights in dict.fromkeys(asked):
        if weights is None or weights.startswith(("timm:", "hf:")):
            continue
        if (images / weights).is_file():
            continue
        raise UserError(
            f"backbone.weights={weights}: there is no file {images / weights}; relative paths "
            "start at the data folder. Put the file there, or set backbone.weights: null."
        )


def hash_labeled_list(params: Params, root: Path) -> str | None:
    """Return the SHA-256 of the list of labeled images, or None if there is no list.

    Raises:
        UserError: If the list cannot be read.
    """
    if params.data.labeled_list is None:
        return None
    from semimae.ingest.label_list import list_hash, read_list

    path = root / params.data.labeled_list
    if not path.resolve().is_relative_to((root / LISTS).resolve()):
        typer.echo(
            f"warning: DVC tracks the lists in {LISTS}/, not {path}; move the file there, or run "
            "`dvc repro -f inputs` each time it changes.",
            err=True,
        )
    return list_hash(read_list(path))
