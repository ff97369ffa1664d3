"""The command line: ``python -m pipeline COMMAND``. Heavy imports wait until a command runs."""

import logging
import os
import sys
import warnings

import typer

from pipeline import (
    add_labels,
    cell,
    doctor,
    export,
    fine_tune,
    grid,
    inputs,
    linear_probe,
    predict,
    prepare,
    prune,
    recipe,
    report,
    results,
    serve,
    split,
    start,
    study,
    suggest,
    sync,
    time_factors,
    train,
)
from pipeline.launch import LOST
from pipeline.workspace import disk_trouble
from semimae.types import Interrupted, LostProcess, UserError

app = typer.Typer(
    name="semimae",
    help="""Semi-supervised Vision Transformers: a DVC pipeline tracked in MLflow.

    `COMMAND --help` shows an example. Start with `python -m pipeline start FOLDER`.
    """,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
_STAGES, _TOOLS = "Stages (run by dvc repro)", "Tools"
app.command("prepare", rich_help_panel=_STAGES)(prepare.prepare)
app.command("inputs", rich_help_panel=_STAGES)(inputs.inputs)
app.command("split", rich_help_panel=_STAGES)(split.split)
app.command("train", rich_help_panel=_STAGES)(train.train)
app.command("linear-probe", rich_help_panel=_STAGES)(linear_probe.linear_probe)
app.command("fine-tune", rich_help_panel=_STAGES)(fine_tune.fine_tune)
app.command("report", rich_help_panel=_STAGES)(report.report)
app.command("start", rich_help_panel=_TOOLS)(start.start)
app.command("doctor", rich_help_panel=_TOOLS)(doctor.doctor)
app.command("predict", rich_help_panel=_TOOLS)(predict.predict)
app.command("export", rich_help_panel=_TOOLS)(export.export)
app.command("suggest-labels", rich_help_panel=_TOOLS)(suggest.suggest_labels)
app.command("add-labels", rich_help_panel=_TOOLS)(add_labels.add_labels)
app.add_typer(recipe.app, name="recipe", rich_help_panel=_TOOLS)
app.command("cell", rich_help_panel=_TOOLS)(cell.cell)
app.command("grid", rich_help_panel=_TOOLS)(grid.grid)
app.command("sync-mlflow", rich_help_panel=_TOOLS)(sync.sync_mlflow)
app.command("ui", rich_help_panel=_TOOLS)(serve.ui)
app.command("serve", rich_help_panel=_TOOLS)(serve.serve)
app.command("time-factors", rich_help_panel=_TOOLS)(time_factors.time_factors)
app.command("study", rich_help_panel=_TOOLS)(study.study)
app.command("keep-results", rich_help_panel=_TOOLS)(results.keep_results)
app.command("prune", rich_help_panel=_TOOLS)(prune.prune)


def main() -> None:
    """Run a command. A user's mistake prints one line and exits with code 2."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("semimae").setLevel(logging.INFO)
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"warning: {message}\n"
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if (said := disk_trouble(error)) is None:
            raise
        print(said, file=sys.stderr)
        raise SystemExit(2) from None
    except LostProcess as reason:
        print(f"process {os.environ.get('RANK', '0')}: {reason}", file=sys.stderr)
        raise SystemExit(LOST) from None
    except Interrupted as reason:
        if os.environ.get("RANK", "0") == "0":  # only one of several processes prints
            print(reason, file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
