import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_helpers import (
    PARAMS,
    REPO,
    Workspace,
    ablation,
    accuracy_of,
    read,
    report,
    scores,
    with_small_cnn,
    write_run,
)
from scipy.stats import t as student

from pipeline.reporting.formats import MINUS
from pipeline.reporting.runs import COLUMNS
from pipeline.reporting.statistics import (
    Spread,
    crossing,
    holm,
    mean_over_seeds,
    paired_difference,
    seeds_to_settle,
)
from pipeline.time_factors import time_factors
from semimae.options.cell import Cell, cell_id
from semimae.options.params import Params
from semimae.types import UserError

pytestmark = pytest.mark.usefixtures("undrawn")


def test_interval_over_seeds_matches_the_table_of_t() -> None:
    spread = mean_over_seeds([0.70, 0.74, 0.78])
    half = 4.302653 * 0.04 / math.sqrt(3)  # t of 0.975 with two degrees of freedom, any table
    assert spread.mean == pytest.approx(0.74)
    assert (spread.low, spread.high) == pytest.approx((0.74 - half, 0.74 + half), abs=1e-7)


def test_paired_difference_uses_common_seeds_and_matches_the_definition() -> None:
    a, b = {0: 0.9, 1: 0.8, 2: 0.85, 7: 0.1}, {0: 0.7, 1: 0.75, 2: 0.72, 9: 0.9}
    d = paired_difference(a, b)
    values = [0.2, 0.05, 0.13]
    mean = sum(values) / 3
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3)
    t = mean / error
    assert d is not None
    assert d.n == 3
    assert d.mean == pytest.approx(mean)
    assert d.p == pytest.approx(1 - t / math.sqrt(2 + t * t))  # closed form for two degrees
    assert d.low == pytest.approx(mean - 4.302653 * error, abs=1e-7)
    back = d.reversed()
    assert (back.mean, back.low, back.high) == (-d.mean, -d.high, -d.low)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


@pytest.mark.parametrize("values", [[0.8], [0.8, 0.8, 0.8], [0.1 + 0.2, 0.3]])
def test_no_spread_gives_no_interval(values: list[float]) -> None:
    spread = mean_over_seeds(values)
    assert (spread.low, spread.high) == (None, None)


def test_holm_by_hand() -> None:
    adjusted = holm([0.04, 0.01, None, 0.03])
    # Sorted 0.01, 0.03, 0.04 of four tests: 4 x 0.01, 3 x 0.03, then 2 x 0.04 but not below 0.09.
    assert adjusted[2] is None
    assert [adjusted[i] for i in (1, 3, 0)] == pytest.approx([0.04, 0.09, 0.09])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_seeds_to_settle_have_the_power_that_simulation_finds() -> None:
    """The number of seeds shows the difference in 80% of simulated grids, one fewer in fewer."""
    observed = mean_over_seeds([0.03, 0.01, 0.02, 0.035, 0.0])
    wanted = seeds_to_settle(observed, tests=3)
    assert wanted is not None
    rng = np.random.default_rng(0)
    deviation = np.std([0.03, 0.01, 0.02, 0.035, 0.0], ddof=1)

    def power(n: int) -> float:
        draws = rng.normal(observed.mean, deviation, (20_000, n))
        t = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(n)
        return float((2 * student.sf(np.abs(t), n - 1) * 3 < 0.05).mean())

    assert power(wanted) > 0.79
    assert power(wanted - 1) < 0.81
    assert seeds_to_settle(Spread(1, 0.1)) is None
    assert seeds_to_settle(mean_over_seeds([0.01, -0.0101])) is None  # more than 50


def test_labels_needed_are_read_off_between_the_points() -> None:
    labels, accuracy = [100.0, 400.0, 1600.0], [0.4, 0.6, 0.5]
    assert crossing(labels, accuracy, 0.5) == pytest.approx(200)  # half-way, on a logarithmic scale
    assert crossing(labels, accuracy, 0.4) == -math.inf
    assert crossing(labels, accuracy, 0.61) == math.inf


def test_full_grid(workspace: Workspace) -> None:
    params = ablation(method=["supervised", "fixmatch", "semi_mae"], label_fraction=[0.1, 0.2, 0.4])
    workspace(params)
    page, rows, summary = report()
    reader = read(page)
    assert len(rows) == len(params.grid()) == 36
    assert list(rows[0]) == COLUMNS
    row = next(
        r for r in rows if (r["method"], r["mask_ratio"], r["seed"]) == ("semi_mae", "0.5", "2")
    )
    cell = params.cell("semi_mae", 0.5, 0.1, 2)
    assert row["folder"] == "runs/semi_mae-0.5-0.1-2-images-plain"
    assert row["cell_id"] == cell_id(Path(row["folder"]))
    assert float(row["top1"]) == pytest.approx(accuracy_of(cell), abs=0.003)
    assert float(row["val_top1"]) == pytest.approx(accuracy_of(cell))
    assert (row["num_labeled"], row["seconds"], row["num_labels"]) == ("100", "2.0", "")
    assert int(row["images_seen"]) == cell.train.steps * cell.images_per_step
    baseline = rows[0]
    assert (baseline["mask_ratio"], baseline["pseudo_accuracy_final"]) == ("", "")
    assert summary["best"]["setting"] == "Semi-MAE, mask 0.75"  # of params.yaml; FixMatch is equal
    assert summary["best"]["over_supervised"] == pytest.approx(0.11, abs=0.006)
    assert (summary["best"]["label_fraction"], summary["best"]["num_labeled"]) == (0.1, 100)
    assert summary["runs_missing"] == 0
    assert "Incomplete" not in reader.text
    for words in ("Leaderboard", "Paired differences", "Labeled images needed"):
        assert words in reader.text
    names = {path.stem for path in Path("reports/plots").iterdir()}
    assert {"labels", "mask_ratio", "pseudo_coverage", "gradient_cosine", "pairs"} <= names
    root, headline, out = workspace.finished[0]
    assert root == Path.cwd()
    assert out == Path("reports")
    assert headline == Path("runs/headline")


def with_labels(params: Params, num_labels: int | None, labeled_list: str | None) -> Params:
    data = params.data.model_copy(update={"labeled_list": labeled_list})
    update = {"label_fraction": None, "num_labels": num_labels, "data": data}
    return params.model_copy(update=update)


@pytest.mark.parametrize(
    ("num_labels", "labeled_list", "words", "number"),
    [(200, None, "200 labels", 200), (None, "data/my_list.txt", "300 labels of my_list.txt", 300)],
)
def test_labels_of_the_headline_in_the_grid(
    num_labels: int | None,
    labeled_list: str | None,
    words: str,
    number: int,
    workspace: Workspace,
) -> None:
    workspace(with_labels(ablation(label_fraction=[None]), num_labels, labeled_list))
    page, rows, summary = report()
    text = read(page).text
    assert f"With {words}, Semi-MAE, mask 0.75 reaches" in text
    assert f"Semi-MAE, mask 0.75, {words} ({number} labeled" in text  # the headline's section
    assert f"{number} labels" in text  # in tables
    results = text[: text.index("In the tables above, each")]  # then come folders and params.yaml
    assert "None" not in results
    assert {(row["label_fraction"], row["num_labeled"]) for row in rows} == {("", str(number))}
    assert {row["num_labels"] for row in rows} == {str(num_labels or "")}
    assert summary["best"]["num_labeled"] == number
    assert "label_fraction" not in summary["best"]
    assert summary["runs_missing"] == 0


def test_labels_of_the_headline_beside_fractions(workspace: Workspace) -> None:
    params = ablation(method=["supervised", "semi_mae"], label_fraction=[0.4, None, 0.1])
    workspace(with_labels(params, 200, None))
    page, rows, summary = report()
    text = read(page).text
    assert len(rows) == 27
    assert summary["best"]["num_labeled"] == 200  # the headline's labels come first
    board = text[text.index("Means over seeds in %") :]
    places = [board.index(title) for title in ("200 labels", "10% (100)", "40% (400)")]
    assert places == sorted(places)
    assert "Labeled images needed for a test accuracy" in text
    assert Path("reports/plots/labels.svg").is_file()


def test_missing_runs_of_the_headline_s_labels_are_named(workspace: Workspace) -> None:
    workspace(with_labels(ablation(label_fraction=[None]), 200, None))
    shutil.rmtree("runs/semi_mae-0.5-None-1-images-plain")
    page, _, summary = report()
    assert "semi_mae m0.5 n200 s1 (not started)" in read(page).text
    assert summary["runs_missing"] == 1


def test_runs_count_whatever_their_starting_weights_hold(workspace: Workspace) -> None:
    """A cell's file has a hash of its starting weights, which params.yaml does not know."""
    params = ablation(method=["semi_mae"])
    params = params.model_copy(
        update={"backbone": params.backbone.model_copy(update={"weights": "w.pth"})}
    )
    workspace(params)
    for path in Path("runs").glob("*/config.json"):
        Cell.read(path).model_copy(update={"weights_sha256": "0" * 64}).write(path)
    _, rows, summary = report()
    assert len(rows) == 6
    assert summary["runs_missing"] == 0


def test_twins_count_once_and_stale_runs_not_at_all(workspace: Workspace) -> None:
    params = ablation()
    workspace(params)
    shutil.copytree(
        "runs/supervised-0.5-0.1-0-images-plain", "runs/supervised-0.75-0.1-0-images-plain"
    )
    write_run(Path("runs/semi_mae-0.9-0.1-0-images-plain"), params.cell("semi_mae", 0.3, 0.1, 0))
    Path("runs/other").mkdir()
    Path("runs/other/config.json").write_text("{}")
    page, rows, _ = report()
    assert len(rows) == 9  # three of supervised, six of semi_mae; the headline is one of them
    assert len({row["cell_id"] for row in rows}) == 9
    assert "0.3" not in {row["mask_ratio"] for row in rows}
    text = read(page).text
    assert "runs/supervised-0.5-0.1-0-images-plain, runs/supervised-0.75-0.1-0-images-plain" in text
    assert "runs/semi_mae-0.75-0.1-0-images-plain, runs/headline" in text


def test_missing_runs_are_named(workspace: Workspace) -> None:
    workspace(ablation())
    shutil.rmtree("runs/semi_mae-0.5-0.1-1-images-plain")
    Path("runs/semi_mae-0.5-0.1-2-images-plain/linear_probe.json").unlink()
    shutil.rmtree("runs/supervised-0.5-0.1-2-images-plain/train")
    split = Path("runs/supervised-0.5-0.1-1-images-plain/split.json")
    split.write_text(split.read_text().replace('"f1"', '"f0"'))
    page, rows, summary = report()
    notes = re.findall(r'<p class="note" role="note">(.+?)</p>', page)
    assert "4 of 9 runs" in notes[0]
    for words in (
        "semi_mae m0.5 f0.1 s1 (not started)",
        "semi_mae m0.5 f0.1 s2 (trained, not scored)",
        "supervised f0.1 s2 (not trained)",
        "supervised f0.1 s1 (made from another version of the dataset)",
    ):
        assert words in notes[0]
    assert len(rows) == 5
    assert summary["runs_missing"] == 4


def test_one_seed_has_no_interval(workspace: Workspace) -> None:
    workspace(ablation(seed=[0]))
    text = read(report()[0]).text
    assert "McNemar test: p < 0.001" in text
    assert "not significant (p" not in text


def test_earlier_phases_count_as_cost(workspace: Workspace) -> None:
    params = ablation(method=["semi_vit"], mask_ratio=[0.75], seed=[0])
    workspace(params, headline=False)
    folder = Path("runs/semi_vit-0.75-0.1-0-images-plain")
    took = {"seconds": 5.0, "cpu_seconds": 3.0}
    phases = [{"method": "mae", "images": 640} | took, {"method": "x", "images": 60} | took]
    (folder / "train" / "phases.json").write_text(json.dumps(phases))
    _, rows, _ = report()
    (cell,) = params.grid()
    assert int(rows[0]["images_seen"]) == 700 + cell.train.steps * cell.images_per_step
    assert (float(rows[0]["seconds"]), float(rows[0]["cpu_seconds"])) == (12.0, 7.0)


def test_one_cell(workspace: Workspace) -> None:
    workspace(ablation(method=["semi_mae"], mask_ratio=[0.75], seed=[0]))
    page, rows, summary = report()
    assert len(rows) == 1
    assert "over_next" not in summary["best"]
    text = read(page).text
    assert "The grid has no other method to compare it with." in text
    for absent in ("Paired differences", "Mask ratio", "How many labels do I need?", "Variants"):
        assert absent not in text  # nothing to say, so nothing is said
    names = {path.stem for path in Path("reports/plots").iterdir()}
    assert not names & {"leaderboard", "differences", "pairs", "mask_ratio", "labels", "cost"}
    assert "Not fine-tuned yet" in text


def test_headline_alone(workspace: Workspace) -> None:
    workspace(ablation().model_copy(update={"mask_ratio": 0.6}))
    for folder in Path("runs").iterdir():
        if folder.name != "headline":
            shutil.rmtree(folder)
    page, rows, summary = report()
    assert [row["folder"] for row in rows] == ["runs/headline"]
    assert "best" not in summary
    assert "nothing to compare" in read(page).text


def test_headline_outside_of_the_grid_is_a_row_and_no_seed(workspace: Workspace) -> None:
    workspace(ablation().model_copy(update={"mask_ratio": 0.6}))
    page, rows, _ = report()
    assert len(rows) == 10
    assert rows[-1]["folder"] == "runs/headline"
    leaderboard = page[page.index('id="leaderboard"') : page.index('id="differences"')]
    assert "mask 0.6" not in leaderboard


def test_headline_of_other_params_is_not_taken_for_this_one(workspace: Workspace) -> None:
    params = ablation()
    workspace(params, headline=False)
    write_run(Path("runs/headline"), params.cell(seed=9))
    page, _, summary = report()
    assert "headline: semi_mae m0.75 f0.1 s0 (not started)" in read(page).text
    assert "classifier" not in summary


def test_nothing_to_report_is_the_users_mistake(workspace: Workspace) -> None:
    workspace(ablation())
    shutil.rmtree("runs")
    with pytest.raises(UserError, match="dvc repro"):
        report()


def test_many_classes_give_tables_instead_of_figures(workspace: Workspace) -> None:
    workspace(ablation(method=["semi_mae"], seed=[0]), [f"class {i}" for i in range(120)])
    page, _, _ = report()
    assert "The 20 classes of lowest accuracy, of 120" in page
    assert "confused most often" in page
    assert not Path("reports/plots/confusion.svg").exists()


def test_fine_tuning_is_shown(workspace: Workspace) -> None:
    workspace(ablation(seed=[0]))
    result = {"protocols": {"fine_tune": scores(0.9)}, "validation": []}
    Path("runs/headline/fine_tune.json").write_text(json.dumps(result))
    page, _, summary = report()
    assert summary["fine_tune"]["top1"] == 0.9
    assert summary["validation"]["top1"] == pytest.approx(accuracy_of(ablation().cell()))
    assert "Fine-tuned on the labeled images" in read(page).text


def timed(**lists: Any) -> Params:
    """A grid in which supervised trains four times as many steps to take as long."""
    factors = {"supervised": 4.0, "semi_mae": 1.0}
    return ablation(budget=["images", "time"], time_factor=factors, **lists)


def test_equal_time_has_a_section_of_its_own(workspace: Workspace) -> None:
    params = timed()
    workspace(params)
    page, rows, summary = report()
    text = read(page).text
    assert summary["runs_missing"] == 0
    # Semi-MAE's factor is 1, so its runs serve both budgets; supervised has runs of both lengths.
    steps = PARAMS.train.steps
    assert [int(row["steps"]) for row in rows].count(4 * steps) == 3
    assert len(rows) == 12
    section = text[text.index("Here all methods train for about") :]
    assert "supervised 4, semi_mae 1" in section
    assert str(4 * steps) in section
    assert "Between methods at equal time." in section


def test_equal_steps_alone_have_no_such_section(workspace: Workspace) -> None:
    workspace(ablation())
    assert "equal time" not in read(report()[0]).text


def test_time_factors_are_ratios_of_mean_times(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    params = ablation()
    workspace(params)
    for folder in Path("runs").glob("supervised*/train"):  # write_run: 2 s, of which 1 s processor
        timing = json.loads((folder / "timing.json").read_text())
        timing[-1] |= {
            "seconds": 0.5 + 0.01 * int(folder.parent.name.split("-")[3]),
            "cpu_seconds": 0.125,
        }
        (folder / "timing.json").write_text(json.dumps([timing[-1]]))
    time_factors()
    assert capsys.readouterr().out == "time_factor: {supervised: 3.92, semi_mae: 1}\n"
    Path("params.yaml").write_text("# kept\n" + (REPO / "params.yaml").read_text())
    with pytest.raises(UserError, match="no finished run of fixmatch in the grid"):
        time_factors()


def test_time_factors_are_written_among_the_comments(workspace: Workspace) -> None:
    workspace(ablation())
    text = (REPO / "params.yaml").read_text().replace("[supervised, fixmatch,", "[supervised,")
    text = text.replace("label_fraction: [0.04, 0.1]", "label_fraction: [0.1]")
    text = text.replace("label_fraction: 0.04", "label_fraction: 0.1")
    Path("params.yaml").write_text(text)
    time_factors(cpu=True, write=True)
    written = Path("params.yaml").read_text()
    read_back = Params.read(Path("params.yaml")).ablation
    assert read_back.time_factor == {"supervised": 1.0, "semi_mae": 1.0}
    assert read_back.budget == ["images", "time"]
    changed = [line for line in written.splitlines() if line not in text.splitlines()]
    assert [line.split(":")[0] for line in changed] == ["  budget", "  time_factor"]


HEAVY = {"heavy": {"mim": {"lambda_mim": 11.0}}, "strong": {"data": {"cutout": 0.5}}}


def test_variants_are_compared_with_the_plain_one_and_within_themselves(
    workspace: Workspace,
) -> None:
    workspace(ablation(mask_ratio=[0.75], variant=["plain", *HEAVY], changes=HEAVY))
    page, rows, summary = report()
    text = " ".join(read(page).text.split())
    assert summary["runs_missing"] == 0
    # Three seeds of semi_mae three times, of supervised twice: heavy changes nothing there.
    assert len(rows) == 15
    assert {r["variant"] for r in rows if r["method"] == "supervised"} == {"plain", "strong"}
    assert summary["best"]["setting"] == "Semi-MAE, mask 0.75, heavy"
    section = text[
        text.index("A variant changes values") : text.index("Lines are means over seeds")
    ]
    assert "mim.lambda_mim: 11.0" in section
    # Invented so that heavy has 1, 2, 1 points more: a mean of 1.33, on validation and test.
    gain = re.escape(f"+1.3 [{MINUS}0.1, +2.8]")
    assert re.search(rf"Semi-MAE, mask 0.75, heavy\d\d\.\d{gain}.{{10,30}}{gain}", section)
    assert "Semi-MAE compared with the other methods within each variant" in section
    assert "Semi-MAE, mask 0.75, heavySupervised+" in section
    assert "Semi-MAE, mask 0.75, strongSupervised, strong+" in section
    assert "semi_mae m0.75 f0.1 s0 heavy" in text


def test_one_variant_has_no_section(workspace: Workspace) -> None:
    workspace(ablation())
    page, rows, _ = report()
    assert "A variant changes values" not in page
    assert {row["variant"] for row in rows} == {"plain"}


@pytest.mark.parametrize("width", [2, 24])
def test_a_baseline_is_compared_and_never_chosen(width: int, workspace: Workspace) -> None:
    """Invented so that the CNN has 2 or 24 points more than the ViT, and Semi-MAE 10, 11, 12."""
    workspace(with_small_cnn(width))
    page, rows, summary = report()
    text = " ".join(read(page).text.split())
    assert summary["runs_missing"] == 0
    assert summary["best"]["setting"] == "Semi-MAE, mask 0.75"
    assert summary["best"]["over_supervised"] == pytest.approx(0.11)
    assert [row["variant"] for row in rows].count("small_cnn") == 3
    answer = text[: text.index("The report covers")]
    name = "Small CNN, labels alone"
    if width == 24:
        assert f"The baseline wins. {name} compared with Semi-MAE, mask 0.75: +13.0" in answer
        assert "95% interval [+10.5, +15.5]; significant (p =" in answer
    else:
        assert "The baseline wins" not in answer
        assert f"{name} compared with Semi-MAE, mask 0.75: {MINUS}9.0 points" in answer
        assert f"[{MINUS}11.5, {MINUS}6.5]" in answer
    board = text[text.index("Means over seeds in %") : text.index("Lead of Semi-MAE over")]
    assert f"Baselines are never recommended: {name}." in board
    assert (board.rindex(name) < board.index("Semi-MAE, mask 0.75")) == (width == 24)


def test_the_params_that_make_the_grid_again_are_beside_the_report(workspace: Workspace) -> None:
    workspace(ablation())
    before = "# whatever its comments\n" + Path("params.yaml").read_text()
    Path("params.yaml").write_text(before)
    report()
    assert Path("reports/params.yaml").read_text() == before
    Path("params.yaml").write_text((REPO / "params.yaml").read_text())
    assert Params.read(Path("reports/params.yaml")) == ablation()


def test_folders_of_an_earlier_grid_are_not_read(workspace: Workspace) -> None:
    """Of equal cells DVC keeps those up to date that the grid has now."""
    workspace(ablation())  # supervised is in the folders of the first mask ratio
    old = sorted(Path("runs").glob("supervised-0.5-*"))
    for folder in old:
        shutil.copytree(folder, Path("runs") / folder.name.replace("-0.5-", "-0.75-"))
        (folder / "linear_probe.json").write_text("{}")  # what earlier code left
    Path("params.yaml").write_text(ablation(mask_ratio=[0.75]).model_dump_json())
    _, rows, summary = report()
    assert summary["runs_missing"] == 0
    assert {r["folder"].split("-")[1] for r in rows if r["method"] == "supervised"} == {"0.75"}


def test_a_missing_cell_counts_once(workspace: Workspace) -> None:
    """The headline is a cell of this grid."""
    workspace(ablation())
    for folder in ("headline", "semi_mae-0.75-0.1-0-images-plain"):
        (Path("runs") / folder / "linear_probe.json").unlink()
    assert "Incomplete: 1 of 9 runs that params.yaml asks for are missing" in read(report()[0]).text


def test_unequal_numbers_of_settings_are_stated(workspace: Workspace) -> None:
    workspace(ablation())
    assert "favors methods that have many: Supervised 1, Semi-MAE 2." in read(report()[0]).text
    workspace(ablation(mask_ratio=[0.9]), headline=False)
    assert "favors methods" not in read(report()[0]).text


def test_a_page_without_a_clear_winner_says_so(workspace: Workspace) -> None:
    workspace(ablation(method=["fixmatch", "semi_mae"], mask_ratio=[0.75]))  # equal on every seed
    text = read(report()[0]).text
    assert "No method won clearly. With 10% of labels (100 images)," in text
    assert " won. " not in text


def test_the_terminal_says_what_the_page_says_first(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace(ablation())
    page, *_ = report()
    lead, rest = capsys.readouterr().out.splitlines()
    won = "Semi-MAE, mask 0.75 won. With 10% of labels (100 images), Semi-MAE, mask 0.75 reaches"
    assert lead.startswith(won)
    assert lead in read(page).text
    assert rest == "reports/index.html has the rest; open it in a browser."


def test_the_report_starts_without_torch() -> None:
    """Loading it would take longer than all of the report."""
    modules = "pipeline.reporting.sections, pipeline.reporting.page, pipeline.reporting.read"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
