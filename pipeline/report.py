"""Stage ``report``: tables and figures from the stage files."""

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
    from pipeline.reporting.evidence import read_evidence
    from pipeline.reporting.render import (
        make_sections,
        summary,
        write_ablation,
        write_page,
    )
    from pipeline.reporting.study import make_study
    from semimae.options.params import Params

    here = Path()  # not the root: a queued experiment reports on its own workspace
    study = make_study(read_evidence(here, Params.read()))
    write_page(study, make_sections(study, git_commit(here)), out)
    write_ablation(study, out / "ablation.csv")
    write_json(out / "summary.json", summary(study))
    root = dvc_root()
    write_json(report_record(root, out), provenance_of(root))
    finish_pipeline(root, here / RUNS / HEADLINE, out)
