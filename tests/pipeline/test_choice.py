"""What the report says of a choice: ties, few validation images, and the model that is in use."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_helpers import Workspace, ablation, read, report, write_run

from pipeline.progress import Describe
from pipeline.reporting.compare import Setting, differ
from pipeline.reporting.runs import Run
from pipeline.reporting.statistics import FEWEST, by_image, mcnemar
from semimae.options.params import Params

pytestmark = pytest.mark.usefixtures("undrawn")
Right = Callable[[str, int], tuple[int, int]]


@pytest.mark.parametrize("images", range(1, 13))
def test_mcnemar_counts_the_ways_in_which_coins_could_fall(images: int) -> None:
    for only_a in range(images + 1):
        far = abs(2 * only_a - images)
        falls = itertools.product((0, 1), repeat=images)
        extreme = sum(abs(2 * sum(fall) - images) >= far for fall in falls)
        assert mcnemar(only_a, images - only_a) == pytest.approx(extreme / 2**images)
    assert mcnemar(0, 0) == 1.0


def test_fewer_images_than_that_never_show_a_difference() -> None:
    assert mcnemar(FEWEST, 0) < 0.05 <= mcnemar(FEWEST - 1, 0)


def rights(*seeds: tuple[int, list[int]]) -> dict[int, Any]:
    return {seed: np.array(right * 50) == 1 for seed, right in seeds}


def test_settings_are_compared_image_by_image() -> None:
    a = rights((0, [1, 1, 1, 0]), (1, [1, 1, 0, 0]), (7, [0, 0, 0, 0]))
    b = rights((0, [1, 0, 0, 1]), (1, [1, 1, 0, 1]))
    one = by_image({0: a[0]}, b, shared=True)
    assert one is not None
    assert (one.num_seeds, one.num_images, one.only_a, one.only_b) == (1, 200, 100, 50)
    assert one.mean == pytest.approx(0.25)
    half = 1.96 * np.std([0, 1, 1, -1]) / math.sqrt(200)  # by the normal distribution
    assert (one.low, one.high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.01)
    back = one.reversed()
    assert (back.only_a, back.mean, back.low, back.p) == (50, -0.25, -one.high, one.p)
    both = by_image(a, b, shared=True)
    assert both is not None
    # Of the same images means are drawn: each is 0, 0.5, 0.5 or -1 ahead.
    assert (both.num_seeds, both.mean) == (2, 0.0)
    half = 1.96 * np.std([0, 0.5, 0.5, -1]) / math.sqrt(200)
    assert (both.low, both.high) == pytest.approx((-half, half), abs=0.01)
    own = by_image(a, b, shared=False)  # 400 different images
    assert own is not None
    half = 1.96 * np.std([0, 1, 1, -1, 0, 0, 0, -1]) / math.sqrt(400)
    assert (own.low, own.high) == pytest.approx((-half, half), abs=0.01)
    assert by_image(a, rights((9, [1, 1, 1, 1])), shared=True) is None


def grid(workspace: Workspace, params: Params, right: Right) -> tuple[str, dict[str, Any]]:
    """Report on a grid whose validation images are as ``right`` says of a method and a seed."""
    workspace(params)
    shutil.rmtree("runs")
    for cell, (first, *_) in params.grid().items():
        write_run(Path("runs") / first.folder, cell, val=right(cell.method, cell.seed))
    write_run(Path("runs/headline"), params.cell(), val=right(params.method, params.seed))
    page, _, summary = report()
    text = read(page).text
    return " ".join(text[: text.index("Means over seeds in %")].split()), summary


@pytest.mark.parametrize(("theirs", "is_tie"), [((0.75, 0.75), True), ((0.75, 0.76), False)])
def test_equal_accuracies_of_a_kept_table_are_a_tie(
    theirs: tuple[float, float], is_tie: bool
) -> None:
    """It holds no images to tell by, and the order of equals is that of the grid."""
    a, b = (
        Setting(method, None, 0.1, runs=[Run.model_construct(val_top1=value) for value in values])
        for method, values in (("fixmatch", (0.5, 1.0)), ("semi_mae", theirs))
    )
    assert differ(a, b) != is_tie


ONE = {"mask_ratio": [0.75], "seed": [0]}


@pytest.mark.parametrize("theirs", [10, 11])
def test_twelve_validation_images_do_not_choose(theirs: int, workspace: Workspace) -> None:
    """The baseline, first in the grid, equals the headline on validation, or is an image ahead."""
    params = ablation(**ONE)
    text, summary = grid(
        workspace, params, lambda method, seed: (theirs if method == "supervised" else 10, 12)
    )
    assert (
        "Validation cannot tell Semi-MAE, mask 0.75 and Supervised apart on 12 validation images, "
        "so this report focuses on Semi-MAE, mask 0.75, the setting of params.yaml." in text
    )
    assert "On 12 images, a difference of fewer than 6 images (50.0 points) is never" in text
    ahead = f"Supervised {100 * theirs / 12:.1f}%: a difference of"
    assert ahead in text
    assert summary["best"]["setting"] == "Semi-MAE, mask 0.75"
    assert summary["best"]["validation_ties"] == ["Supervised"]
    assert summary["best"]["validation_images"] == 12


def test_enough_validation_images_choose(workspace: Workspace) -> None:
    """And the first screen says that the model in use is another one, and how to change that."""
    params = ablation(**ONE)
    text, summary = grid(
        workspace, params, lambda method, seed: (192 if method == "supervised" else 180, 200)
    )
    assert "Supervised was chosen by validation accuracy, on 200 validation images." in text
    assert "Validation cannot tell" not in text
    assert summary["best"]["validation_ties"] == []
    assert (
        "predict, export and serve use the model in runs/headline: Semi-MAE, mask 0.75 with 10% of "
        "labels, seed 0. It classifies 72.0%" in text
    )
    assert "This report recommends Supervised instead. To use that, run dvc exp run -S" in text
    assert "-S method=supervised." in text


def test_images_of_all_seeds_choose_together(workspace: Workspace) -> None:
    params = ablation(mask_ratio=[0.75])
    text, _ = grid(workspace, params, lambda method, seed: (12 if method == "semi_mae" else 10, 12))
    assert "chosen by validation accuracy, on 12 validation images for each of 3 seeds." in text
    assert "Its setting is the one that this report recommends" in text


def test_one_seed_is_judged_on_test_images(workspace: Workspace) -> None:
    """Of 200 test images Semi-MAE gets all that the other one gets, and 20 more."""
    text, _ = grid(workspace, ablation(**ONE), lambda method, seed: (10, 12))
    assert (
        "Of the same 200 test images, Semi-MAE, mask 0.75 alone is right on 20 and Supervised "
        "alone on 0 (95% bootstrap interval over images [" in text
    )
    assert "models differ significantly (exact McNemar test, p < 0.001, Holm-corrected)" in text
    assert (
        "this one model is significantly better than Supervised, the runner-up by validation"
        in text
    )
    assert "One seed says nothing about the randomness of training. Add seeds to" in text


def test_several_seeds_are_averaged_on_test_images(workspace: Workspace) -> None:
    text, _ = grid(
        workspace, ablation(mask_ratio=[0.75]), lambda method, seed: (round(170 + 5 * seed), 200)
    )
    assert "averaged over 3 seeds, the difference is +11.0 points (95% bootstrap" in text


def folded(params: Params) -> Params:
    data = params.data.model_copy(update={"folds": 5})
    return params.model_copy(update={"data": data, "refit": True})


def test_all_labeled_images_judge_where_folds_hold_each_out_once(workspace: Workspace) -> None:
    """140 of 150 and 120 of them: 20 images more, and none that the other one alone gets."""
    params = folded(ablation(**ONE))
    text, summary = grid(
        workspace, params, lambda method, seed: (120 if method == "supervised" else 140, 150)
    )
    assert (
        "Semi-MAE, mask 0.75 was chosen by validation accuracy, on 150 labeled images, each held "
        "out once in 5 folds." in text
    )
    z, n, p = 1.959964, 150, 140 / 150  # Wilson's interval
    center, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    low, high = ((center + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    limits = f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert f"Semi-MAE, mask 0.75 gets 93.3% {limits} of them right, Supervised" in text
    assert "Supervised 80.0%: a difference of +13.3 points (95% bootstrap interval over" in text
    assert "p < 0.001)." in text
    assert "It was trained on all 100 labels, after 5 trainings that each held out a fold" in text
    assert summary["best"]["validation_images"] == 150


def test_images_that_all_seeds_hold_out_count_once(workspace: Workspace) -> None:
    """Three seeds are three images ahead, on the same ones: as different ones, nine would show."""
    right: Right = lambda method, seed: (13 if method == "semi_mae" else 10, 20)  # noqa: E731
    text, _ = grid(workspace, folded(ablation(mask_ratio=[0.75])), right)
    assert "on 20 labeled images, each held out once in 5 folds, for each of 3 seeds, so" in text
    assert "On 20 images, a difference of fewer than 6 images (30.0 points)" in text
    assert "a difference of +15.0 points (95% bootstrap interval over images [" in text
    assert "p = 0.25)." in text
    shutil.rmtree("runs")
    text, _ = grid(workspace, ablation(mask_ratio=[0.75]), right)
    assert "was chosen by validation accuracy, on 20 validation images for each of 3" in text


@pytest.mark.parametrize("refit", [True, False])
def test_the_model_in_use_has_seen_the_validation_images_or_can(
    refit: bool, workspace: Workspace
) -> None:
    params = ablation(**ONE, label_fraction=[1.0]).model_copy(
        update={"label_fraction": 1.0, "refit": refit}
    )
    text, _ = grid(workspace, params, lambda method, seed: (10, 12))
    can = (
        "It has learned from 1,000 labels and not from 12 validation images; with refit: true in "
        "params.yaml, make repro trains it on all of them as well."
    )
    has = "It was trained on all 1,000 labels, after a training that held out 12 validation images."
    assert (can in text, has in text) == (not refit, refit)


def test_pseudo_labels_of_own_images_are_judged_on_validation(workspace: Workspace) -> None:
    """0.75 of 0.4 * 12 images; the interval is Wilson's of 4.8 of them."""
    params = ablation(**ONE)
    workspace(params)
    shutil.rmtree("runs")
    for cell, (first, *_) in params.grid().items():
        folder = Path("runs") / first.folder
        write_run(folder, cell, val=(10, 12))
        path = folder / "train" / "history.json"
        rows = [
            {k: v for k, v in row.items() if not k.startswith("pseudo/accuracy")}
            for row in json.loads(path.read_text())
        ]
        path.write_text(json.dumps(rows))
    page, table, _ = report()
    text = " ".join(read(page).text.split())
    section = text[text.index("Pseudo labels in use at the end of training") :]
    z, n, p = 1.959964, 4.8, 0.75
    center, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    low, high = ((center + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert f"not known75.0 [{100 * low:.1f}, {100 * high:.1f}]512" in section
    semi = next(row for row in table if row["method"] == "semi_mae")
    assert (semi["pseudo_accuracy_final"], semi["val_pseudo_accuracy_final"]) == ("", "0.75")
    assert semi["val_images"] == "12"


def test_the_bar_shows_what_is_known_of_pseudo_labels() -> None:
    own, known = Describe(8), Describe(8)
    row = {"step": 10, "seconds": 2.0, "val/pseudo_accuracy": 0.5}
    assert "right on val 0.500" in own(row)
    known({"step": 5, "seconds": 1.0, "pseudo/accuracy": 0.75})
    note = known(row)
    assert "right 0.750" in note
    assert "right on val" not in note
