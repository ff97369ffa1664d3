"""The page as a browser and a screen reader get it."""

import base64
import itertools
import json
import re
from pathlib import Path

import pytest
from report_helpers import CLASSES, COMMIT, Workspace, ablation, build_workspace, read, report

from pipeline.reporting import plotting
from pipeline.workspace import digest, mlflow_record
from semimae.options.cell import cell_id

Page = tuple[str, str]  # HTML, Markdown


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a grid with several label fractions, and of runs that MLflow knows."""
    with pytest.MonkeyPatch.context() as patch:
        build = build_workspace(tmp_path_factory.mktemp("full"), patch)
        build(ablation(label_fraction=[0.1, 0.2, 0.4]))
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


def svgs(page: str) -> dict[str, str]:
    """The drawings by their alternative text."""
    found = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)">', page)
    return {alt: base64.b64decode(data).decode() for data, alt in found}


def test_page_is_one_valid_escaped_file(full: Page) -> None:
    page, markdown = full
    reader = read(page)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "iframe", "object")
        assert tag != "link" or attributes["href"] == "data:,"
        assert "srcset" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if target := attributes.get("src"):
            assert target.startswith("data:")
    assert "@import" not in page
    assert "url(" not in page
    assert CLASSES[0] in reader.text  # shown, not run
    assert "<script" not in markdown.replace("\\<", "")
    for lines in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}
        assert len(widths) == 1  # every row has the header's cells


def test_drawings_ask_for_nothing(full: Page) -> None:
    for svg in svgs(full[0]).values():
        targets = re.findall(r"(?:href|src)=\"([^\"]*)\"|url\(([^)]*)\)", svg)
        assert all(t[0].startswith(("#", "data:")) or t[1].startswith("#") for t in targets)


def test_links_of_the_page_have_their_targets(full: Page) -> None:
    reader = read(full[0])
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    links = [a["href"] or "" for t, a in reader.tags if t == "a"]
    targets = {link[1:] for link in links if link.startswith("#")}
    assert len(ids) == len(set(ids))
    assert targets <= set(ids)
    assert {a["id"] for t, a in reader.tags if t == "section"} <= targets  # the list at the top
    others = {link for link in links if not link.startswith(("#", "http://127.0.0.1"))}
    assert others == {"ablation.csv", "summary.json", "report.md", "../docs/method.md"}


def test_every_figure_has_words_numbers_runs_and_a_command(full: Page) -> None:
    page, markdown = full
    figures = re.findall(r"<figure>(.+?)</figure>", page, flags=re.S)
    assert len(figures) > 15
    for figure in figures:
        (alt,) = re.findall(r'<img [^>]+ alt="([^"]{20,})">', figure)
        assert len(re.findall(r"<tbody>\n<tr", figure)) == 1, alt
        assert re.search(r'Runs: <a href="#run-', figure), alt
        assert re.search(r"To make it again: <code>dvc exp run -S ", figure), alt
    shown = re.findall(r"!\[.+?\]\((.+?)\)", markdown)
    assert len(shown) == len(figures)


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
    themed = [plotting._DARK.get(c, c) if dark else c for c in (plotting.INK, plotting.MUTED)]
    assert all(contrast(color, colors["page"]) >= 4.5 for color in themed)
    for light, night in plotting._METHODS.items():
        assert contrast(night if dark else light, colors["page"]) >= 3  # of graphics


def test_mistakes_are_shown_with_their_images(full: Page) -> None:
    page, _ = full
    (svg,) = [svg for alt, svg in svgs(page).items() if "each under its true class" in alt]
    assert svg.count("data:image/png") == 5
    assert "97%" in svg
    section = page[page.index('id="mistakes"') : page.index('id="reconstructions"')]
    assert [f"test/{i}.png" in section for i in range(6)] == [True] * 5 + [False]


def test_reconstructions_are_shown_at_each_mask_ratio(full: Page) -> None:
    alts = [alt for alt in svgs(full[0]) if "original, masked, reconstructed" in alt]
    assert [re.findall(r"mask [\d.]+", alt) for alt in alts] == [["mask 0.5"], ["mask 0.75"]]


def test_diagnostics_are_drawn_for_each_number_of_labels(full: Page) -> None:
    page, _ = full
    training = page[page.index('id="training"') : page.index('id="headline"')]
    folded = re.findall(r'<details class="more"><summary>(.+?)</summary>', training)
    assert folded == [
        "The same with 20% of labels (200 images)",
        "The same with 40% of labels (400 images)",
    ]
    for words in (
        "Accuracy of the pseudo labels",
        "Use of the pseudo labels",
        "Reconstruction error",
        "Agreement of the two unlabeled terms",
        "Norm of each term",
    ):
        assert training.count(f"<figcaption>{words}") == 3
    assert "Coverage of each class in the headline run" in training
    assert "Not drawn" not in training


def test_no_number_of_labels_beyond_four_times_the_largest(full: Page) -> None:
    page, _ = full
    section = page[page.index('id="labels"') : page.index('id="training"')]
    (needed,) = re.findall(r"Labeled images needed.+?<tbody>(.+?)</tbody>", section, flags=re.S)
    texts = re.findall(r'<td class="n">(.+?)</td>', needed)
    numbers = [int(n.replace("\u202f", "")) for t in texts for n in re.findall(r"[\d\u202f]+", t)]
    assert numbers
    assert min(numbers) >= 100
    assert max(numbers) <= 4 * 400
    assert "&gt; 1\u202f600" in needed  # what is refused says so


def test_runs_have_folder_commit_and_mlflow_run(full: Page) -> None:
    page, markdown = full
    identity = cell_id_of(page, "runs/semi_mae-0.5-0.1-0-images-plain")
    (row,) = re.findall(rf'<tr id="run-{identity}">(.+?)</tr>', page, flags=re.S)
    address = f"http://127.0.0.1:5000/#/experiments/1/runs/{'ab' * 16}"
    assert f'<a href="{address}">{"ab" * 4}</a>' in row
    assert COMMIT[:10] in row
    assert f"({address})" in markdown
    assert "Not every run has been logged to MLflow from here" in page
    assert f'href="#run-{identity}"' in page[: page.index('id="runs"')]


def cell_id_of(page: str, folder: str) -> str:
    (found,) = re.findall(rf'<tr id="run-(\w+)">(?:(?!</tr>).)*{folder}', page, flags=re.S)
    return str(found)


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_other_weights_is_not_linked(workspace: Workspace) -> None:
    workspace(ablation(seed=[0]))
    remember(Path("runs/semi_mae-0.5-0.1-0-images-plain"), weights="of a run before")
    page, rows, _ = report()
    assert "No run has been logged to MLflow from here" in page
    assert "/runs/abab" not in page
    assert {row["mlflow_run"] for row in rows} == {""}
