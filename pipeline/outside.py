"""Files that params.yaml names and that lie outside of DVC's sight, or may."""

from pathlib import Path

import typer

from semimae.options.params import Params
from semimae.types import UserError

LISTS = "lists"  # a dependency of stage `inputs` in dvc.yaml


def check_weights(params: Params, images: Path) -> None:
    """Check that the files of weights are there that the headline, or a variant, starts from.

    Hours may pass between the first stage and the one that reads them.

    Args:
        params: The settings.
        images: The data folder, which their paths are relative to.

    Raises:
        UserError: If one is missing.
    """
    variants = [params, *(params.variant(name) for name in params.ablation.variant)]
    asked = [
        weights
        for variant in variants
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
            f"backbone.weights={weights}: there is no file {images / weights}; a relative path is "
            "relative to the data folder. Put it there, or set backbone.weights: null."
        )


def hash_labeled_list(params: Params, root: Path) -> str | None:
    """Return the SHA-256 of the list of labeled images, if there is one.

    Raises:
        UserError: If it cannot be read.
    """
    if params.data.labeled_list is None:
        return None
    from semimae.ingest.label_list import list_hash, read_list

    path = root / params.data.labeled_list
    if not path.resolve().is_relative_to((root / LISTS).resolve()):
        typer.echo(
            f"warning: DVC watches the lists in {LISTS}/, not {path}; move it there, or run "
            "`dvc repro -f inputs` whenever it has changed.",
            err=True,
        )
    return list_hash(read_list(path))
