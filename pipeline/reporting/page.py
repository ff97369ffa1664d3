"""The files that the sections become: a page, Markdown with pictures, a table, a summary."""

import base64
import functools
import re
from pathlib import Path
from typing import Any

import altair
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.reporting import charts
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Figure, Pictures, Section, show
from pipeline.reporting.runs import COLUMNS
from semimae.files import replaced_folder, write_csv, write_text

_PICTURE_WIDTH = 560  # pixels, in report.md and MLflow
_GLOBALS = "window.vegaEmbed = vegaEmbed;"  # what the page's script needs of Vega
_MOST_ROWS = 40  # of a figure's table in report.md


def write_page(a: Analysis, sections: list[Section], out: Path) -> None:
    """Write index.html, report.md and the drawings that it shows."""
    blocks = [block for section in sections for block in section.blocks]
    with replaced_folder(out / "plots") as folder:
        for block in blocks:
            if isinstance(block, Figure):
                write_text(folder / f"{block.name}.svg", picture(a, block))
            elif isinstance(block, Pictures) and block.wide:
                (folder / f"{block.name}.png").write_bytes(base64.b64decode(block.pictures[0].png))
    write_text(out / "index.html", html(a, sections))
    write_text(out / "report.md", markdown(f"Semi-MAE on {a.evidence.name}", sections))


def markdown(title: str, sections: list[Section]) -> str:
    """Return the sections as Markdown; the pictures that it shows are files."""
    return environment().get_template("report.md.j2").render(title=title, sections=sections)


def html(a: Analysis, sections: list[Section]) -> str:
    """Return the page, which opens from one file without a network."""
    figures = [b for section in sections for b in section.blocks if isinstance(b, Figure)]
    names = [verdict.best.first.short_labels for verdict in a.verdicts.values()]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            dataset=a.evidence.name,
            sections=sections,
            figures={figure.name: _sent(figure) for figure in figures},
            methods=charts.colors(a.methods),
            fractions=names if len(names) > 1 else [],
            main=_main_labels(a),
            vega=Markup(_vega()),
            kept=a.evidence.params is None,
        )
    )


def picture(a: Analysis, figure: Figure) -> str:
    """Return a figure as an SVG, of the main label fraction where it can show only one."""
    values = {"hidden": [], "labels": _main_labels(a)}
    params = [param | {"value": values[param["name"]]} for param in figure.spec["params"]]
    data = {name: table.records() for name, table in figure.tables.items()}
    look = {"width": _PICTURE_WIDTH, "background": "white"}
    return draw(figure.spec | {"params": params, "datasets": data} | look)


def _main_labels(a: Analysis) -> str:
    return a.main.best.first.short_labels if a.grid else ""


def draw(specification: dict[str, Any]) -> str:
    """Return a Vega-Lite specification as an SVG."""
    version = altair.SCHEMA_VERSION.rsplit(".", 1)[0]
    return str(vl_convert.vegalite_to_svg(specification, vl_version=version))


@functools.cache
def _vega() -> str:
    return str(vl_convert.javascript_bundle(_GLOBALS))


def _sent(figure: Figure) -> dict[str, Any]:
    """Return a figure as the page's script reads it: names once, then rows."""
    sent = {}
    for name, table in figure.tables.items():
        records = table.records()
        fields = list(dict.fromkeys(key for record in records for key in record))
        rows = [[record.get(field) for field in fields] for record in records]
        sent[name] = {"fields": fields, "rows": rows}
    return {"spec": figure.spec, "tables": sent}


@functools.cache
def environment() -> Environment:
    """Return the templates with the filters that they use."""
    found = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=lambda name: name is not None and not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"show": show, "code": _code, "md": _markdown}
    found.globals["most_rows"] = _MOST_ROWS
    return found


def write_ablation(a: Analysis, path: Path) -> None:
    """Write one row per run; full precision, nothing where a method has no such number."""
    rows = [
        ["" if value is None else str(value) for value in run.model_dump().values()]
        for run in a.evidence.runs
    ]
    write_csv(path, COLUMNS, rows)


def summary(a: Analysis) -> dict[str, Any]:
    """Return the few numbers that `dvc metrics show` and `dvc exp show` put into columns."""
    headline = a.evidence.headline
    found: dict[str, Any] = {
        protocol: {"top1": scores.top1.value, "ece": scores.ece.value}
        for protocol, scores in (headline.scores if headline else {}).items()
    }
    if headline is not None:  # what to choose between experiments by
        found["validation"] = {"top1": headline.val_top1}
    if a.grid:
        best, tied, over_next, over_baseline = a.main
        fraction = best.label_fraction
        found["best"] = {
            "setting": best.name,
            **({} if fraction is None else {"label_fraction": fraction}),
            "num_labeled": best.first.num_labeled,
            "top1": best.mean().mean,
            "validation_images": sum(run.val_images or 0 for run in best.runs),
            "validation_ties": [setting.name for setting in tied],
        }
        for name, c in (("next", over_next), ("supervised", over_baseline)):
            if c is not None:
                found["best"][f"over_{name}"] = c.difference.mean
    found["runs_missing"] = len(a.evidence.missing)
    return found


def _code(text: str) -> Markup:
    """Escape a text and set what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _markdown(text: str) -> str:
    """Escape what Markdown or HTML would take for markup; code stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if i % 2 else re.sub(r"([\\*_\[\]<>|#~])", r"\\\1", part)
        for i, part in enumerate(parts)
    )
