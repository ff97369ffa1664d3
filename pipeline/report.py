"""Stage ``report``: tables and figures from the stage files."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from pipeline.tracking import finish_pipeline, provenance_of
from pipeline.workspace import HEADLINE, RUNS, dvc_root, git_commit, report_record, write_json


def report(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("reports"),
) -> None:
    """Write the report: index.html, report.md, ablation.csv, plots.

    Reads what `dvc repro` left in runs/; trains and scores nothing.

    Example: python -m pipeline report
    """
    from pipeline.reporting.analysis import Analysis
    from pipeline.reporting.page import summary, write_ablation, write_page
    from pipeline.reporting.read import read_evidence
    from pipeline.reporting.sections import make_sections
    from pipeline.reporting.words import lead
    from semimae.options.params import Params

    here = Path()  # not the root: a queued experiment reports on its own workspace
    analysis = Analysis(read_evidence(here, Params.read()))
    write_page(analysis, make_sections(analysis, git_commit(here)), out)
    write_ablation(analysis, out / "ablation.csv")
    write_json(out / "summary.json", summary(analysis))
    shutil.copyfile("params.yaml", out / "params.yaml")
    if analysis.grid:
        typer.echo(lead(analysis))
    typer.echo(f"{out / 'index.html'} has the rest; open it in a browser.")
    root = dvc_root()
    write_json(report_record(root, out), provenance_of(root))
    finish_pipeline(root, here / RUNS / HEADLINE, out)
