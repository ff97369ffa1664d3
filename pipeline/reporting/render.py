"""The sections as files: a page, Markdown, a table and a summary."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.reporting.about import literature_section, provenance_section
from pipeline.reporting.answer import answer_section
from pipeline.reporting.blocks import Figures, Section, Value
from pipeline.reporting.compare import over_seeds, top1
from pipeline.reporting.cost import cost_section
from pipeline.reporting.equal_time import equal_time_section
from pipeline.reporting.evidence import Result
from pipeline.reporting.headline import headline_section
from pipeline.reporting.labels import labels_section
from pipeline.reporting.pictures import mistakes_section, pictures_section
from pipeline.reporting.plotting import data_uri
from pipeline.reporting.runs import runs_section
from pipeline.reporting.settings import differences_section, effects_section, leaderboard_section
from pipeline.reporting.study import Study
from pipeline.reporting.training import training_section
from pipeline.reporting.variants import variants_section
from semimae.files import replaced_folder, write_csv, write_text

COLUMNS = [
    "method",
    "mask_ratio",
    "variant",
    "label_fraction",
    "num_labels",
    "num_labeled",
    "seed",
    "top1",
    "linear_probe",
    "knn",
    "ece",
    "nll",
    "val_top1",
    "pseudo_accuracy_final",
    "pseudo_coverage_final",
    "val_pseudo_accuracy_final",
    "val_pseudo_coverage_final",
    "val_images",
    "steps",
    "seconds",
    "cpu_seconds",
    "images_seen",
    "device",
    "device_hours",
    "flops",
    "commit",
    "mlflow_run",
    "cell_id",
    "folder",
]


def make_sections(study: Study, commit: str | None) -> list[Section]:
    """Return the report's sections in order."""
    about_grid = [
        leaderboard_section,
        effects_section,
        differences_section,
    ]
    return [
        answer_section(study),
        *(section(study) for section in about_grid if study.grid),
        *([variants_section(study)] if len(study.evidence.params.ablation.variant) > 1 else []),
        *([equal_time_section(study)] if study.timed else []),
        labels_section(study),
        training_section(study),
        headline_section(study),
        mistakes_section(study),
        pictures_section(study),
        cost_section(study),
        literature_section(),
        runs_section(study),
        provenance_section(study, commit),
    ]


def write_page(study: Study, sections: list[Section], out: Path) -> None:
    """Write index.html, report.md and the drawings that they show."""
    figures = [
        figure
        for section in sections
        for block in section.blocks
        if isinstance(block, Figures)
        for figure in block.figures
    ]
    with replaced_folder(out / "plots") as folder:
        for figure in figures:
            write_text(folder / f"{figure.name}.svg", figure.svg)
    environment = make_environment()
    dataset = study.evidence.params.dataset
    for template, name in (("report.html.j2", "index.html"), ("report.md.j2", "report.md")):
        page = environment.get_template(template).render(dataset=dataset, sections=sections)
        write_text(out / name, page)


def make_environment() -> Environment:
    """Return the templates with the filters that they use."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "code": _code, "md": _markdown}
    environment.tests["value"] = lambda entry: isinstance(entry, Value)
    return environment


def write_ablation(study: Study, path: Path) -> None:
    """Write one row per run; full precision, nothing where a method has no such number."""
    rows = [
        ["" if value is None else str(value) for value in _row(result)]
        for result in study.evidence.results
    ]
    write_csv(path, COLUMNS, rows)


def summary(study: Study) -> dict[str, Any]:
    """Return the few numbers that `dvc metrics show` and `dvc exp show` put into columns."""
    headline = study.evidence.headline
    found: dict[str, Any] = {
        protocol: {"top1": scores.top1.value, "ece": scores.ece.value}
        for protocol, scores in (headline.scores if headline else {}).items()
    }
    if headline is not None:  # what to choose between experiments by
        found["validation"] = {"top1": headline.val_top1}
    if study.grid:
        fraction = study.main_fraction
        verdict = study.verdicts[fraction]
        best: dict[str, Any] = {
            "setting": verdict.best.name,
            **({} if fraction is None else {"label_fraction": fraction}),
            "num_labeled": study.num_labeled(fraction),
            "top1": over_seeds(study.grid[verdict.best], top1()).mean,
            "validation_images": sum(r.num_val for r in study.grid[verdict.best]),
            "validation_ties": [setting.name for setting in verdict.tied],
        }
        for name, comparison in (
            ("next", verdict.over_next),
            ("supervised", verdict.over_baseline),
        ):
            if comparison is not None:
                best[f"over_{name}"] = comparison.difference.mean
        found["best"] = best
    found["runs_missing"] = len(study.evidence.missing)
    return found


def _row(result: Result) -> list[Any]:
    cell, scores = result.cell, result.scores
    classifier = scores["classifier"]
    return [
        cell.method,
        cell.mask_ratio,
        result.variant,
        cell.label_fraction,
        cell.num_labels,
        result.num_labeled,
        cell.seed,
        classifier.top1.value,
        scores["linear_probe"].top1.value,
        scores["knn"].top1.value,
        classifier.ece.value,
        classifier.nll,
        result.val_top1,
        result.last("pseudo/accuracy"),
        result.last("pseudo/coverage"),
        result.last("val/pseudo_accuracy"),
        result.last("val/pseudo_coverage"),
        result.num_val,
        result.cell.train.steps,
        result.seconds,
        result.cpu_seconds,
        result.images_seen,
        result.origin.device,
        result.device_hours,
        result.origin.flops,
        result.origin.commit,
        result.mlflow.run_id if result.mlflow else None,
        result.identity,
        f"runs/{result.folders[0].name}",
    ]


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
