"""``export``: write a trained model in formats that other tools read, with a model card."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.model_card import CARD, model_card, which_model
from pipeline.predict import Model
from semimae.types import UserError


class Format(StrEnum):
    """Keys of ``semimae.inference.exports.FORMATS``, without importing torch."""

    TIMM = "timm"
    ONNX = "onnx"
    TORCH = "torch"


def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder to write or replace.")],
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Format to write; can be repeated. Default: all of them."),
    ] = None,
) -> None:
    """Export a model to timm, ONNX and torch.export.

    This also writes MODEL_CARD.md. The outputs of every export are compared with the model. If a
    format does not support the model, the reason is printed, the other formats are written, and the
    exit code is 1.

    Example: python -m pipeline export runs/headline exported --format onnx
    """
    from semimae.files import replaced_folder
    from semimae.inference.exports import export as write
    from semimae.model_file import find_weights, open_model

    _refuse_foreign(out)
    trained = open_model(model)
    typer.echo(which_model(trained, model))
    written, refused = [], []
    with replaced_folder(out) as folder:
        for chosen in dict.fromkeys(formats or Format):
            try:
                write(trained, chosen.value, folder)
                written.append(chosen.value)
            except UserError as error:
                refused.append(f"{chosen.value}: {error}")
        if not written:
            raise UserError("; ".join(refused))
        card = model_card(trained, find_weights(model).parent.parent, written)
        (folder / CARD).write_text(card, encoding="utf-8")
    typer.echo(f"{out}: {', '.join([*written, CARD])}")
    for reason in refused:
        typer.echo(reason, err=True)
    if refused:
        raise typer.Exit(1)


def _refuse_foreign(out: Path) -> None:
    if out.is_file() or (out.is_dir() and not (out / CARD).exists() and any(out.iterdir())):
        raise UserError(f"{out} was not written by `export`; remove it or choose another folder.")
