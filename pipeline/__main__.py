"""The command line: ``python -m pipeline COMMAND``. Heavy imports wait for a command's call."""

import logging
import os
import sys
import warnings

import typer

from pipeline import (
    add_labels,
    export,
    grid,
    predict,
    prepare,
    probe,
    prune,
    recipe,
    report,
    split,
    suggest,
    sync,
    train,
    tune,
)
from semimae.types import Interrupted, UserError

app = typer.Typer(
    name="semimae",
    help="Semi-supervised Vision Transformers: a DVC pipeline that is tracked in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
_STAGES, _TOOLS = "Stages (run by `dvc repro`)", "For people"
app.command("prepare", rich_help_panel=_STAGES)(prepare.prepare)
app.command("split", rich_help_panel=_STAGES)(split.split)
app.command("train", rich_help_panel=_STAGES)(train.train)
app.command("linear-probe", rich_help_panel=_STAGES)(probe.linear_probe)
app.command("fine-tune", rich_help_panel=_STAGES)(tune.fine_tune)
app.command("report", rich_help_panel=_STAGES)(report.report)
app.command("predict", rich_help_panel=_TOOLS)(predict.predict)
app.command("export", rich_help_panel=_TOOLS)(export.export)
app.command("suggest-labels", rich_help_panel=_TOOLS)(suggest.suggest_labels)
app.command("add-labels", rich_help_panel=_TOOLS)(add_labels.add_labels)
app.add_typer(recipe.app, name="recipe", rich_help_panel=_TOOLS)
app.command("grid", rich_help_panel=_TOOLS)(grid.grid)
app.command("sync-mlflow", rich_help_panel=_TOOLS)(sync.sync_mlflow)
app.command("prune", rich_help_panel=_TOOLS)(prune.prune)


def main() -> None:
    """Run a command; a user's mistake ends with one line and exit code 2."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("semimae").setLevel(logging.INFO)
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as reason:
        if os.environ.get("RANK", "0") == "0":  # one of several processes speaks
            print(reason, file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
