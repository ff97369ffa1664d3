"""``keep-results``: a finished study as small files in results/, and the page that shows them."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.dvc_lock import changed_stages
from pipeline.workspace import dvc_root, git_commit, write_json
from semimae.files import replaced_folder, write_text
from semimae.options.params import Params
from semimae.types import UserError

if TYPE_CHECKING:
    from pipeline.reporting.blocks import Entry, Table
    from pipeline.reporting.compare import Comparison, Grid
    from pipeline.reporting.study import Study

RESULTS, PAGE = Path("results"), Path("docs/results.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_COPIED = ("reports/index.html", "reports/ablation.csv", "params.yaml")


def keep_results(
    name: Annotated[str, typer.Argument(help="Folder below results/.")],
    title: Annotated[str, typer.Option(help="What was run: the heading on the page.")],
) -> None:
    """Keep a finished grid's report, numbers and origin in results/NAME.

    docs/results.md shows the tables of all results that are kept.

    Example: python -m pipeline keep-results digits --title "Digits, all methods"
    """
    from pipeline.reporting.evidence import read_evidence
    from pipeline.reporting.render import make_environment
    from pipeline.reporting.study import make_study

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
    study = make_study(read_evidence(root, Params.read(root / "params.yaml")))
    if study.evidence.missing:
        raise UserError(
            f"{len(study.evidence.missing)} runs of the grid are missing; run `dvc repro` first."
        )
    if lacking := [path for path in _COPIED if not (root / path).is_file()]:
        raise UserError(f"{', '.join(lacking)} is missing; run `dvc repro` first.")
    about = _about(study, git_commit(root))
    text = make_environment().get_template("results.md.j2").render(tables=_tables(study))
    with replaced_folder(root / RESULTS / name) as folder:
        for path in _COPIED:
            shutil.copyfile(root / path, folder / Path(path).name)
        write_json(folder / "about.json", about)
        write_text(folder / "summary.md", f"### {title}\n\n{_sentence(name, about)}\n{text}")
    write_text(root / PAGE, shown_in(root, (root / PAGE).read_text(encoding="utf-8")))
    typer.echo(f"{RESULTS / name} holds the results; {PAGE} shows them.")


def shown_in(root: Path, page: str) -> str:
    """Return the page's text with the summaries of all results between its two marks."""
    parts = [path.read_text(encoding="utf-8").strip() for path in _summaries(root)]
    block = "\n\n".join([BEGIN, *parts, END])
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    return re.sub(pattern, lambda _: block, page, flags=re.DOTALL)


def _summaries(root: Path) -> Iterable[Path]:
    return sorted((root / RESULTS).glob("*/summary.md"))


def _about(study: "Study", commit: str | None) -> dict[str, Any]:
    from pipeline.reporting.cost import device_hours

    results = study.evidence.results
    return {
        "commit": commit,
        "seeds": sorted({result.cell.seed for result in results}),
        "runs": len(results),
        "cpu_hours": sum(result.cpu_seconds for result in results) / 3600,
        "hours": sum(result.seconds for result in results) / 3600,
        "device_hours": device_hours(results),
        # Of where they were trained, which need not be here.
        "devices": sorted({result.origin.machine for result in results}),
        "torch": sorted({result.origin.torch or "not recorded" for result in results}),
    }


def _sentence(name: str, about: dict[str, Any]) -> str:
    return (
        f"{about['runs']} runs, seeds {min(about['seeds'])} to {max(about['seeds'])}, "
        f"{about['device_hours']} of training on {' and '.join(about['devices'])}, torch "
        f"{' and '.join(about['torch'])}, commit {str(about['commit'])[:7]}. "
        f"The report, every run and the parameters are in `{RESULTS}/{name}/`.\n"
    )


def _tables(study: "Study") -> list["Table"]:
    """Return the best setting of each method, with what the headline's method has over it."""
    from pipeline.reporting.blocks import Table, number_columns, text_columns
    from pipeline.reporting.compare import fractions
    from pipeline.reporting.variants import variant_tables

    budgets: list[tuple[str, Grid, list[Comparison]]] = [
        ("equal steps", study.grid, study.between_methods),
        ("equal time", study.timed, study.between_timed),
    ]
    columns = (
        "Test top-1 %",
        "Pseudo labels right %",
        "The headline's lead",
        "Adjusted p",
        "Steps",
    )
    tables = [
        Table(
            f"{study.labels(fraction)}, {words}:",
            [*text_columns("Setting"), *number_columns(*columns)],
            _rows(study, grid, fraction, comparisons),
        )
        for words, grid, comparisons in budgets
        for fraction in fractions(grid)
    ]
    if len(study.evidence.params.ablation.variant) > 1:
        tables += [t for f in study.fractions for t in variant_tables(study, f) if t.rows]
    return tables


def _rows(
    study: "Study", grid: "Grid", fraction: float | None, comparisons: list["Comparison"]
) -> list[list["Entry"]]:
    from pipeline.reporting.answer import difference_value
    from pipeline.reporting.blocks import NONE, accuracy, count, p_value, percent
    from pipeline.reporting.compare import mean_of_last, over_seeds, ranked, top1

    settings = ranked(grid, fraction, study.asked)
    own = next((s for s in settings if s.method == study.evidence.params.method), None)
    leads = {c.b: c for c in (*comparisons, *(c.reversed() for c in comparisons)) if c.a == own}
    rows: list[list[Entry]] = []
    for setting in sorted(settings, key=lambda s: -over_seeds(grid[s], top1()).mean):
        results, lead = grid[setting], leads.get(setting)
        rows.append(
            [
                setting.name,
                accuracy(over_seeds(results, top1())),
                percent(mean_of_last(results, "pseudo/accuracy_all")),
                NONE if lead is None else difference_value(lead),
                NONE if lead is None else p_value(lead.adjusted_p),
                count(results[0].cell.train.steps),
            ]
        )
    return rows
