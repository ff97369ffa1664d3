"""What a finished study leaves in results/ and on its page, and how one command gets there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_helpers import REPO, Reader, Workspace, ablation, read, report, with_small_cnn

import pipeline.results
import pipeline.study as study_command
from pipeline.results import BEGIN, END, keep_results, shown_in, write_site
from semimae.options.params import Params
from semimae.types import UserError

pytestmark = pytest.mark.usefixtures("undrawn")
STALE: set[str] = set()  # the stages that DVC would run
FACTORS = {"supervised": 4.0, "semi_mae": 1.0}


@pytest.fixture
def finished(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a report; the page shows no results yet."""
    workspace(ablation(budget=["images", "time"], time_factor=FACTORS))
    report()
    monkeypatch.setattr(pipeline.results, "changed_stages", lambda root: STALE)
    STALE.clear()
    Path("docs").mkdir()
    Path("docs/results.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest.\n")
    return Path.cwd()


def test_results_are_small_files_and_a_part_of_their_page(finished: Path) -> None:
    keep_results("fake", title="Invented runs")
    folder = finished / "results" / "fake"
    assert {path.name for path in folder.iterdir()} == {
        *("about.json", "ablation.csv", "params.yaml"),
    }
    about = json.loads((folder / "about.json").read_text())
    assert about["seeds"] == [0, 1, 2]
    assert about["runs"] == 12
    assert about["cpu_hours"] == pytest.approx(12 / 3600)  # report_helpers: a second each
    # report_helpers: the machine that is noted in the runs, whatever this one is
    assert (about["devices"], about["torch"]) == (["cpu (x86_64, 2 threads)"], ["2.0"])
    page = Path("docs/results.md").read_text()
    assert "0.00333 CPU-hours of training on cpu (x86\\_64, 2 threads), torch 2.0, commit" in page
    assert page.startswith("# Title\n\n")
    assert page.endswith(f"{END}\n\nThe rest.\n")
    assert "old" not in page
    assert "### Invented runs" in page
    assert "10% of labels (100 images), equal steps:" in page
    assert "10% of labels (100 images), equal time:" in page
    # The accuracies that report_helpers invents: 62, 64, 66 %, and 10, 11, 12 points more.
    (row,) = [line for line in page.splitlines() if "Supervised" in line and "| 240 |" in line]
    assert "significant (p = 0.003, Holm-corrected)" in row
    assert "| 64.0 " in row
    assert "| +11.0 " in row
    assert shown_in(finished, page) == page


def test_baselines_stand_in_the_table_with_what_the_headline_has_over_them(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invented: the CNN has 2 points more than the ViT, and Semi-MAE 10, 11 and 12 more."""
    workspace(with_small_cnn(2))
    report()
    monkeypatch.setattr(pipeline.results, "changed_stages", lambda root: STALE)
    Path("docs").mkdir()
    Path("docs/results.md").write_text(f"{BEGIN}\n{END}\n")
    keep_results("fake", title="Invented runs")
    page = Path("docs/results.md").read_text()
    assert "equal steps, but for the baselines:" in page
    (row,) = [line for line in page.splitlines() if "Small CNN, labels alone" in line]
    assert "| 66.0 " in row
    assert "| +9.0 " in row


def test_an_unfinished_grid_is_not_kept(finished: Path) -> None:
    for budget in ("images", "time"):  # one cell, in two folders
        shutil.rmtree(f"runs/semi_mae-0.5-0.1-1-{budget}-plain")
    with pytest.raises(UserError, match="1 runs of the grid are missing"):
        keep_results("fake", title="Invented runs")
    assert not (finished / "results").exists()


def test_a_missing_report_is_named(finished: Path) -> None:
    Path("reports/ablation.csv").unlink()
    with pytest.raises(UserError, match=r"reports/ablation\.csv is missing; run `dvc repro` first"):
        keep_results("fake", title="Invented runs")


@pytest.mark.parametrize("name", [".", "..", "../recipes", "a/b", "", "a b", ".git"])
def test_results_stay_in_their_folder(name: str, finished: Path) -> None:
    (finished / "recipes").mkdir()
    with pytest.raises(UserError, match="cannot be the name of a folder in results/; allowed: let"):
        keep_results(name, title="Invented runs")
    assert (finished / "recipes").is_dir()


def test_a_report_of_other_params_is_not_kept(finished: Path) -> None:
    STALE.update(["report", "grid_split@x"])
    with pytest.raises(UserError, match="2 stages are not up to date, so the report may be of"):
        keep_results("fake", title="Invented runs")
    assert not (finished / "results").exists()


def test_the_report_of_a_kept_table_says_what_the_report_said(finished: Path) -> None:
    """But for what only the stage files know."""
    keep_results("fake", title="Invented runs")
    write_site(finished, Path("site"))
    kept = read(Path("site/fake.html").read_text())
    first = read(Path("reports/index.html").read_text())
    lead = (
        "It is significantly better than Supervised, the runner-up by validation accuracy (+11.0 "
        "points, p = 0.003"
    )
    assert lead in kept.text
    assert lead in first.text
    assert {"leaderboard", "differences", "equal-time", "cost", "runs"} <= ids(kept)
    assert ids(first) - ids(kept) >= {"training", "headline", "predictions", "reconstructions"}


def ids(page: Reader) -> set[str | None]:
    return {attributes["id"] for tag, attributes in page.tags if tag == "section"}


def test_the_page_shows_what_results_hold() -> None:
    page = (REPO / "docs/results.md").read_text()
    assert shown_in(REPO, page) == page, "run `python -m pipeline.results`"
    assert page.count(BEGIN) == page.count(END) == 1


def test_a_study_is_two_grids_and_continues(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ablation(budget=["images"], time_factor={})
    Path("recipes").mkdir()
    Path("recipes/study_fake.yaml").write_text(f"# Does it help?\n{asked.model_dump_json()}\n")
    done: list[Any] = []

    def factors(cpu: bool, write: bool) -> None:
        assert cpu
        assert write
        done.append("factors")
        timed = ablation(budget=["images", "time"], time_factor=FACTORS)
        Path("params.yaml").write_text(timed.model_dump_json())

    def grid(jobs: int) -> None:
        done.append(Params.read(Path("params.yaml")).ablation.budget)

    monkeypatch.setattr(study_command, "grid", grid)
    monkeypatch.setattr(study_command, "time_factors", factors)
    both = ["images", "time"]
    Path("params.yaml").write_text(asked.model_dump_json())
    study_command.study("study_fake")
    assert done == [["images"], "factors", both]
    assert "### Does it help?" in Path("docs/results.md").read_text()
    assert Path("results/fake/about.json").is_file()
    study_command.study("study_fake")  # its factors are those of the first time
    assert done == [["images"], "factors", both, both]
