"""``keep-results``: a finished study as small files in results/, and the pages that show them."""

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.dvc_lock import changed_stages
from pipeline.workspace import dvc_root, git_commit, read_json, write_json
from semimae.files import replaced_folder, write_text
from semimae.options.params import Params
from semimae.types import UserError

if TYPE_CHECKING:
    from pipeline.reporting.analysis import Analysis
    from pipeline.reporting.blocks import Block

RESULTS, PAGE = Path("results"), Path("docs/results.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_COPIED = ("reports/ablation.csv", "params.yaml")


def keep_results(
    name: Annotated[str, typer.Argument(help="Folder below results/.")],
    title: Annotated[str, typer.Option(help="What was run: the heading on the page.")],
) -> None:
    """Keep a finished grid's numbers and origin in results/NAME, and write docs/results.md again.

    `make docs` turns what is kept into the same interactive report.

    Example: python -m pipeline keep-results digits --title "Digits, all methods"
    """
    from pipeline.reporting.read import read_evidence

    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be the name of a folder in {RESULTS}/; allowed: letters, digits, "
            "- and _, such as digits_all."
        )
    root = dvc_root()
    if changed := changed_stages(root):
        raise UserError(
            f"{len(changed)} stages are not up to date, so the report may be of other params; "
            "run `dvc repro` first."
        )
    params = Params.read(root / "params.yaml")
    evidence = read_evidence(root, params)
    if evidence.missing:
        raise UserError(
            f"{len(evidence.missing)} runs of the grid are missing; run `dvc repro` first."
        )
    if lacking := [path for path in _COPIED if not (root / path).is_file()]:
        raise UserError(f"{', '.join(lacking)} is missing; run `dvc repro` first.")
    runs = evidence.runs
    about = {
        "title": title,
        "dataset": evidence.name,
        **dict(zip(("method", "mask_ratio", "label_fraction"), evidence.asked, strict=True)),
        "baselines": params.ablation.baseline.variant,
        "commit": git_commit(root),
        "seeds": sorted({run.seed for run in runs}),
        "runs": len(runs),
        "cpu_hours": sum(run.cpu_seconds for run in runs) / 3600,
        "hours": sum(run.seconds for run in runs) / 3600,
        # Of where they were trained, which need not be here.
        "devices": sorted({run.origin.machine for run in runs}),
        "torch": sorted({run.origin.torch or "not recorded" for run in runs}),
    }
    with replaced_folder(root / RESULTS / name) as folder:
        for path in _COPIED:
            shutil.copyfile(root / path, folder / Path(path).name)
        write_json(folder / "about.json", about)
    write_text(root / PAGE, shown_in(root, (root / PAGE).read_text(encoding="utf-8")))
    typer.echo(f"{RESULTS / name} holds the results; {PAGE} shows them.")


def shown_in(root: Path, page: str) -> str:
    """Return the page's text with the tables of all results between its two marks."""
    from pipeline.reporting.blocks import Section
    from pipeline.reporting.page import markdown

    sections = [Section("", "", _summary(folder)) for folder in _kept(root)]
    block = f"{BEGIN}\n\n{markdown('', sections).strip()}\n\n{END}"
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    return re.sub(pattern, lambda _: block, page, flags=re.DOTALL)


def write_site(root: Path, out: Path) -> None:
    """Write the report of each result that is kept to a folder of the documentation's site."""
    from pipeline.reporting.analysis import Analysis
    from pipeline.reporting.page import html
    from pipeline.reporting.read import read_kept
    from pipeline.reporting.sections import make_sections

    out.mkdir(parents=True, exist_ok=True)
    for folder in _kept(root):
        analysis = Analysis(read_kept(folder))
        sections = make_sections(analysis, read_json(folder / "about.json")["commit"])
        write_text(out / f"{folder.name}.html", html(analysis, sections))


def _kept(root: Path) -> list[Path]:
    return sorted(path.parent for path in (root / RESULTS).glob("*/about.json"))


def _summary(folder: Path) -> "list[Block]":
    """Return a result's heading, where it comes from, and its tables."""
    from pipeline.reporting.analysis import Analysis
    from pipeline.reporting.blocks import Text
    from pipeline.reporting.read import read_kept
    from pipeline.reporting.variants import variant_tables
    from pipeline.reporting.words import device_hours

    about, analysis = read_json(folder / "about.json"), Analysis(read_kept(folder))
    origin = (
        f"{about['runs']} runs, seeds {min(about['seeds'])} to {max(about['seeds'])}, "
        f"{device_hours(analysis.evidence.runs)} of training on {' and '.join(about['devices'])}, "
        f"torch {' and '.join(about['torch'])}, commit {str(about['commit'])[:7]}. Every run and "
        f"the parameters are in `{RESULTS}/{folder.name}/`; `make docs` writes the interactive "
        f"report to `site/results/{folder.name}.html`."
    )
    varied = len({setting.variant for setting in analysis.grid}) > 1
    return [
        Text(about["title"], tone="title"),
        Text(origin),
        *_tables(analysis),
        *(variant_tables(analysis) if varied else []),
    ]


def _tables(a: "Analysis") -> "list[Block]":
    """Return the best setting of each method and the baselines, and the headline's lead over each.

    P-values are corrected for the comparisons between methods, and for those with baselines.
    """
    from pipeline.reporting import tables, words
    from pipeline.reporting.analysis import fractions
    from pipeline.reporting.blocks import Table
    from pipeline.reporting.compare import Comparison, Setting, against, compare
    from pipeline.reporting.runs import method_name

    right = tables.mean("Pseudo labels in use that are right", "pseudo_accuracy_final", "percent")
    lead = f"Lead of {method_name(a.asked.method)}"
    found: list[Block] = []
    for budget, grid, baselines, comparisons in (
        ("steps", a.grid, a.baselines, a.between_methods),
        ("time", a.timed, [], a.between_timed),
    ):
        for fraction in fractions(grid):
            own, ranked = a.own(grid, fraction), a.ranked(grid, fraction)
            beside = [s for s in baselines if s.label_fraction == fraction]
            leads: dict[Setting, Comparison] = {}
            if own:
                pairs = [*against(own, comparisons), *compare((own, s) for s in beside)]
                leads = {c.b: c for c in pairs}
            columns = [
                *(tables.SETTING, tables.ACCURACY, right),
                *tables.lead_columns(lead, leads),
                tables.STEPS,
            ]
            length = f"equal {budget}{', but for the baselines' * bool(beside)}"
            caption = f"{words.labels(ranked[0].first)}, {length}:"
            found.append(Table(caption, columns, tables.by_accuracy([*ranked, *beside])))
    return found


if __name__ == "__main__":  # a folder: the reports for the site; none: the page of results
    root = dvc_root()
    if sys.argv[1:]:
        write_site(root, Path(sys.argv[1]))
    else:
        write_text(root / PAGE, shown_in(root, (root / PAGE).read_text(encoding="utf-8")))
