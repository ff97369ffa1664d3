"""The page as a browser and a screen reader get it, and that its charts draw its tables."""

import html
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_helpers import (
    CLASSES,
    COMMIT,
    Workspace,
    ablation,
    accuracy_of,
    build_workspace,
    read,
    report,
    scores,
)

from pipeline.reporting.charts import COLORS
from pipeline.reporting.formats import MINUS
from pipeline.tracking.address import ui_record
from pipeline.workspace import digest, mlflow_record
from semimae.evaluation.metrics import Scores
from semimae.options.cell import cell_id

Page = tuple[str, str]  # HTML, Markdown
ENDS = ("", " low", " high")
CELL = r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>"
METHODS = ["supervised", "fixmatch", "flexmatch", "semi_mae"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a grid with several label fractions, and of runs that MLflow knows."""
    with pytest.MonkeyPatch.context() as patch:
        build = build_workspace(tmp_path_factory.mktemp("full"), patch)
        build(ablation(method=METHODS, label_fraction=[0.1, 0.2, 0.4]))
        remember(Path("runs/semi_mae-0.5-0.1-0-images-plain"))
        page, _, _ = report()
        return page, Path("reports/report.md").read_text()


def remember(folder: Path, weights: str | None = None) -> str:
    """Leave what `publish` leaves of a run that it has logged."""
    record = mlflow_record(Path(), cell_id(folder))
    record.parent.mkdir(parents=True, exist_ok=True)
    run = {"run_id": "ab" * 16, "experiment_id": "1", "ui": "http://127.0.0.1:5000"}
    record.write_text(json.dumps(run | {"weights": weights or digest(folder / "train")}))
    return cell_id(folder)


def figures(page: str) -> dict[str, Any]:
    """What the page's script reads: each figure's chart and its data."""
    (text,) = re.findall(r'<script type="application/json" id="figures">(.+?)</script>', page)
    found: dict[str, Any] = json.loads(text)
    return found


def data(page: str, figure: str, name: str = "rows") -> list[dict[str, Any]]:
    """The rows that a chart draws."""
    table = figures(page)[figure]["tables"][name]
    return [dict(zip(table["fields"], row, strict=True)) for row in table["rows"]]


def tables(page: str, section: str) -> list[tuple[list[str], list[list[str]]]]:
    """The tables of a part of the page, as a reader sees them: headings, rows."""
    (part,) = re.findall(rf'<section id="{section}">(.+?)</section>', page, flags=re.S)
    found = []
    for table in re.findall(r"<table>(.+?)</table>", part, flags=re.S):
        rows = [
            [html.unescape(re.sub("<.+?>", "", cell)) for cell in re.findall(CELL, row)]
            for row in re.findall(r"<tr.*?>(.+?)</tr>", table, flags=re.S)
        ]
        found.append(([name.replace("\N{NO-BREAK SPACE}", " ") for name in rows[0]], rows[1:]))
    return found


def shown(value: float | None, low: float | None, high: float | None, form: str = ".1f") -> str:
    """A proportion as a table prints it, by another way than the report's."""
    ends = "" if low is None or high is None else f" [{100 * low:{form}}, {100 * high:{form}}]"
    return f"{100 * (value or 0):{form}}{ends}".replace("-", MINUS)


def test_page_is_one_valid_escaped_file(full: Page) -> None:
    page, markdown = full
    reader = read(page)
    for tag, attributes in reader.tags:
        assert tag not in ("iframe", "object")
        assert tag != "script" or "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"
        assert "srcset" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if target := attributes.get("src"):
            assert target.startswith("data:")
    assert [tag for tag, _ in reader.tags].count("script") == 3  # data, Vega, ours
    assert "@import" not in page
    assert CLASSES[0] in reader.text  # shown, not run
    assert CLASSES[0] in {row["True class"] for row in data(page, "confusion")}
    assert "<script" not in markdown.replace("\\<", "")
    for lines in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}
        assert len(widths) == 1  # every row has the header's cells


@pytest.mark.parametrize(
    ("section", "figure", "number", "form"),
    [
        ("leaderboard", "leaderboard", "Test top-1", ".1f"),
        ("cost", "cost", "Test top-1", ".1f"),
        ("mask-ratio", "mask_ratio", "Test top-1", ".1f"),
        ("labels", "labels", "Test top-1", ".1f"),
        ("differences", "differences", "Difference", "+.1f"),
        ("differences", "pairs", "Difference", "+.1f"),
    ],
)
def test_charts_of_settings_draw_what_the_table_says(
    section: str, figure: str, number: str, form: str, full: Page
) -> None:
    page, _ = full
    drawn = [
        (
            row["Setting"],
            row.get("Compared with"),
            shown(*(row[number + k] for k in ENDS), form=form),
        )
        for row in data(page, figure)
    ]
    unit = " (points)" if form.startswith("+") else " (%)"
    listed = []
    for head, rows in tables(page, section):
        if number + unit in head and ("Compared with" in head) == (drawn[0][1] is not None):
            of = [
                head.index(n) if n in head else None
                for n in ("Setting", "Compared with", number + unit)
            ]
            plain = [[text.replace(" same on all seeds", "") for text in row] for row in rows]
            found = [tuple(None if i is None else row[i] for i in of) for row in plain]
            listed.append(sorted(found, key=str))
    assert sorted(drawn, key=str) in listed
    assert len(drawn) > 2


def test_the_seeds_of_the_leaderboard_are_the_runs(full: Page) -> None:
    page, _ = full
    drawn = {
        (row["Cell id"], row["Folders"], f"{100 * row['Test top-1']:.1f}", row["MLflow run"])
        for row in data(page, "leaderboard", "seeds")
    }
    (head, rows) = tables(page, "runs")[0]
    of = [head.index(n) for n in ("Cell id", "Folders", "Test top-1 (%)", "MLflow run")]
    listed = {tuple(row[i].replace("\N{EN DASH}", "") for i in of) for row in rows}
    assert {(*each[:3], each[3] or "") for each in drawn} == listed
    assert {row["Seed"] for row in data(page, "leaderboard", "seeds")} == {0, 1, 2}


def test_every_other_chart_draws_the_numbers_under_it(full: Page) -> None:
    page, _ = full
    compared = 0
    for name, figure in figures(page).items():
        (part,) = re.findall(rf'data-figure="{name}"(.+?)</figure>', page, flags=re.S)
        found = tables(f'<section id="numbers">{part}</section>', "numbers")
        if not found:  # it is beside the chart, and compared above
            assert name in ("leaderboard", "differences", "cost")
            continue
        for (head, rows), dataset in zip(found, figure["tables"], strict=True):
            drawn = data(page, name, dataset)
            assert len(drawn) == len(rows)
            for record, row in zip(drawn, rows, strict=True):
                for heading, text in zip(head, row, strict=True):
                    assert_reads(text, record, heading)
            compared += 1
    assert compared > 15


def assert_reads(text: str, record: dict[str, Any], heading: str) -> None:
    """Check that a table's entry says what a chart has under the same heading."""
    name = re.sub(r" \((%|points)\)$", "", heading)
    value, low, high = (record.get(f"{name}{end}") for end in ENDS)
    text = re.sub(" (same on all seeds|one seed)$", "", text)
    if heading.endswith("(%)") and name != heading:
        assert text == shown(value, low, high)
    elif heading.endswith("(points)"):
        assert text == shown(value, low, high, "+.1f")
    elif isinstance(value, float):
        number = text.partition(" ")[0].replace(MINUS, "-")
        digits = len(number.partition(".")[2])
        assert round(value, digits) == pytest.approx(float(number.removeprefix("<")), rel=0.01)
    elif isinstance(value, int):
        assert text == f"{value:,}"
    else:
        assert text == ("\N{EN DASH}" if value is None else value)


@pytest.mark.parametrize("key", ["val/top1", "pseudo/coverage", "gradient/cosine"])
def test_curves_draw_what_the_stage_files_say(key: str, full: Page) -> None:
    page, _ = full
    rows = data(page, key.replace("/", "_"))
    (value,) = {field for row in rows for field in row} - {
        *("Labels", "Setting", "Method", "Step", "Top-1 low", "Top-1 high", "Share low"),
        *("Share high", "Cosine low", "Cosine high"),
    }
    for row in rows:
        assert row["Method"] in ("Supervised", "FixMatch", "FlexMatch", "Semi-MAE")
    row = next(r for r in rows if (r["Setting"], r["Step"]) == ("Semi-MAE, mask 0.75", 20))
    cells = [ablation().cell("semi_mae", 0.75, 0.1, seed) for seed in (0, 1, 2)]
    written = {  # by report_helpers
        "val/top1": [accuracy_of(cell) for cell in cells],
        "pseudo/coverage": [0.5] * 3,
        "gradient/cosine": [0.1] * 3,
    }[key]
    assert row[value] == pytest.approx(sum(written) / 3, rel=1e-4)
    assert row[f"{value} low"] == pytest.approx(min(written), rel=1e-4)
    assert row[f"{value} high"] == pytest.approx(max(written), rel=1e-4)
    shares = {"val/top1": 100.0, "pseudo/coverage": 100.0, "gradient/cosine": 1.0}
    numbers = [row[f"{value}{end}"] * shares[key] for end in ENDS]
    text = "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*numbers, 3 if shares[key] == 1 else 1)
    assert any(text in cell for _, rows in tables(page, "training") for r in rows for cell in r)


def test_charts_of_the_headline_draw_its_scores(full: Page) -> None:
    page, _ = full
    found = Scores.model_validate(scores(accuracy_of(ablation().cell())))
    classes = data(page, "per_class")
    assert [row["Accuracy"] for row in classes] == pytest.approx(
        [each.value for each in found.per_class], rel=1e-4
    )
    cells = data(page, "confusion")
    assert [row["Images"] for row in cells] == [n for row in found.confusion for n in row]
    coverage = data(page, "accuracy_over_coverage")
    confidence = np.linspace(0.99, 0.3, 200, dtype=np.float32)  # report_helpers, so many right:
    right = np.arange(200) < round(200 * accuracy_of(ablation().cell()))
    for row in coverage:
        kept = confidence >= row["Confidence"]
        assert row["Coverage"] == pytest.approx(kept.mean(), rel=1e-4)
        assert row["Accuracy"] == pytest.approx(right[kept].mean(), rel=1e-4)
    texts = {"".join(row) for _, rows in tables(page, "headline") for row in rows}
    for row in classes:
        ends = shown(*(row[f"Accuracy{end}"] for end in ENDS))
        assert f"{row['Class']}{ends}{row['Test images']}" in texts


def test_every_data_set_of_a_chart_is_one_of_its_tables(full: Page) -> None:
    """Those that Altair would add are lost, since the page fills in the tables."""
    for name, figure in figures(full[0]).items():
        spec = figure["spec"]
        sources = [part["data"] for part in (spec, *spec["layer"]) if "data" in part]
        named = {source["name"] for source in sources if "name" in source}
        assert named == figure["tables"].keys(), name
        assert "datasets" not in spec


def test_pictures_of_the_charts_are_those_of_the_page(full: Page) -> None:
    """Each figure is a file beside report.md, and no two share one."""
    page, markdown = full
    listed = re.findall(r"!\[.+?\]\(plots/(.+?)\)", markdown)
    assert len(listed) == len(set(listed))
    assert {name.removesuffix(".svg") for name in listed if name.endswith(".svg")} == set(
        figures(page)
    )


def test_links_of_the_page_have_their_targets(full: Page) -> None:
    reader = read(full[0])
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    links = [a["href"] or "" for t, a in reader.tags if t == "a"]
    targets = {link[1:] for link in links if link.startswith("#")}
    assert len(ids) == len(set(ids))
    assert targets <= set(ids)
    assert {a["id"] for t, a in reader.tags if t == "section"} <= targets  # the list at the top
    others = {link for link in links if not link.startswith(("#", "http://127.0.0.1"))}
    assert others == {"ablation.csv", "summary.json", "report.md"}


def test_every_figure_has_words_and_numbers(full: Page) -> None:
    page, _ = full
    found = re.findall(r"<figure(?: class=\"wide\")?>(.+?)</figure>", page, flags=re.S)
    charts = [figure for figure in found if "data-figure" in figure]
    beside = ("leaderboard", "differences", "cost")  # of these the table is shown anyway
    assert len(charts) > 15
    for figure in charts:
        (alt,) = re.findall(r'role="img" aria-label="([^"]{20,})"', figure)
        is_beside = any(f'data-figure="{name}"' in figure for name in beside)
        numbers = re.search(r"<summary>The numbers</summary>.+<tbody>\n<tr", figure, re.S)
        assert (numbers is None) == is_beside, alt
    for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page):
        assert len(alt) > 5


def test_a_screen_reader_finds_headings_and_headers(full: Page) -> None:
    page, _ = full
    reader = read(page)
    headings = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert {a.get("scope") for t, a in reader.tags if t == "th"} == {"col", "row"}
    for body in re.findall(r"<tbody>(.+?)</tbody>", page, flags=re.S):
        for row in re.findall(r"<tr.*?>(.+?)</tr>", body, flags=re.S):
            assert row.strip().startswith('<th scope="row"')
    assert dict(reader.tags)["html"]["lang"] == "en"


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_enough_by_day_and_night(full: Page, dark: bool) -> None:
    blocks = re.findall(r":root \{(.+?)\}", full[0], flags=re.S)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[dark]))
    for ground in ("page", "raised", "strong", "note"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for color in COLORS:
        assert contrast(color, colors["page"]) >= 3, color  # of graphics


def test_images_are_shown_in_groups_that_a_class_filters(full: Page) -> None:
    page, _ = full
    (part,) = re.findall(r'<section id="predictions">(.+?)</section>', page, flags=re.S)
    names = re.findall(r"test/(\d)\.png</small>", part)
    assert names[:5] == ["0", "1", "2", "3", "4"]  # the surest first
    assert names[5:10] == ["4", "3", "2", "1", "0"]  # then the least certain
    assert part.count("data:image/png") == 10
    true, predicted = re.findall(r'data-true="(.*?)" data-predicted="(.*?)"', part)[0]
    assert (read(f"<p>{true}</p>").text, predicted) == (CLASSES[0], "4")
    assert "<option>4</option>" in part


def test_reconstructions_are_shown_at_each_mask_ratio(full: Page) -> None:
    page, markdown = full
    (part,) = re.findall(r'<section id="reconstructions">(.+?)</section>', page, flags=re.S)
    assert re.findall(r"<figcaption>(.+?)</figcaption>", part) == [
        "Semi-MAE, mask 0.5",
        "Semi-MAE, mask 0.75",
    ]
    assert len(re.findall(r"plots/reconstructions_\S+\.png", markdown)) == 2


def test_the_selectors_name_the_methods_and_the_numbers_of_labels(full: Page) -> None:
    page, _ = full
    names = ["Supervised", "FixMatch", "FlexMatch", "Semi-MAE"]
    assert re.findall(r'data-hide="(.+?)"', page) == names
    (options,) = re.findall(r'<select id="fraction">(.+?)</select>', page)
    assert re.findall(r"<option.*?>(.+?)</option>", options)[:3] == [
        *("10% (100)", "20% (200)", "40% (400)"),
    ]
    assert "<option selected>10% (100)</option>" in options
    rows = re.findall(r'<tr[^>]* data-labels="(.+?)" data-method="(.+?)"', page)
    assert {method for _, method in rows} == set(names)


def test_no_number_of_labels_beyond_the_largest(full: Page) -> None:
    """What is asked for lies between the points that were measured, or is said to lie outside."""
    page, _ = full
    (head, rows) = tables(page, "labels")[-1]
    assert [row[0] for row in rows] == ["Supervised", "FixMatch", "FlexMatch", "Semi-MAE"]
    assert head == ["Method", "66.0%", "69.0%", "72.0%", "75.0%", "78.0%", "81.0%"]
    texts = [text for row in rows for text in row[1:]]
    numbers = [int(n.replace(",", "")) for t in texts for n in re.findall(r"[\d,]*\d", t)]
    assert min(numbers) >= 100
    assert max(numbers) <= 400
    assert any("> 400" in text for text in texts)
    assert any("< 100" in text for text in texts)


def test_runs_have_folder_commit_and_mlflow_run(full: Page) -> None:
    page, markdown = full
    identity = cell_id_of(page, "runs/semi_mae-0.5-0.1-0-images-plain")
    (row,) = re.findall(rf'<tr id="run-{identity}"[^>]*>(.+?)</tr>', page, flags=re.S)
    address = f"http://127.0.0.1:5000/#/experiments/1/runs/{'ab' * 16}"
    assert f'<a href="{address}">{"ab" * 4}</a>' in row
    assert COMMIT[:10] in row
    assert f"({address})" in markdown
    assert "Not every run has been logged to MLflow from here" in page
    assert f'href="#run-{identity}"' in page[: page.index('id="runs"')]


def cell_id_of(page: str, folder: str) -> str:
    (found,) = re.findall(rf'<tr id="run-(\w+)"[^>]*>(?:(?!</tr>).)*{folder}', page, flags=re.S)
    return str(found)


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_other_weights_is_not_linked(workspace: Workspace) -> None:
    workspace(ablation(seed=[0]))
    remember(Path("runs/semi_mae-0.5-0.1-0-images-plain"), weights="of a run before")
    page, rows, _ = report()
    assert "No run has been logged to MLflow from here" in page
    assert "/runs/abab" not in page
    assert {row["mlflow_run"] for row in rows} == {""}


@pytest.mark.usefixtures("undrawn")
def test_links_to_mlflow_lead_to_where_its_pages_are(workspace: Workspace) -> None:
    """Not to a port where somebody else's server may run."""
    workspace(ablation(seed=[0]))
    remember(Path("runs/semi_mae-0.5-0.1-0-images-plain"))
    ui_record(Path()).write_text("http://127.0.0.1:5123")
    page, _, _ = report()
    assert f"http://127.0.0.1:5123/#/experiments/1/runs/{'ab' * 16}" in page
    assert "127.0.0.1:5000" not in page


def test_same_input_gives_the_same_bytes(workspace: Workspace) -> None:
    workspace(ablation())
    report()
    first = {p: p.read_bytes() for p in sorted(Path("reports").rglob("*")) if p.is_file()}
    shutil.rmtree("reports")
    report()
    assert first == {p: p.read_bytes() for p in sorted(Path("reports").rglob("*")) if p.is_file()}
