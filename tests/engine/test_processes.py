"""Several processes and micro-batches train as one process does on the whole batch."""

import json
import sys
from pathlib import Path

import pytest
from process_worker import CASES, Result, case, run
from support import REPO, changed_params

from pipeline.launch import launch
from semimae.data.store import Prepared
from semimae.distributed import share_of
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare

WORKER = Path(__file__).with_name("process_worker.py")
Results = dict[str, Result]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare("digits", changed_params().data, folder, folder / "prepared")
    prepared = Prepared.read(folder / "prepared")
    split = make_split(prepared, seed=0, num_labels=40, val_fraction=0.15, include_labeled=True)
    split.write(folder / "split.json")
    return folder


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("one")
    return {name: run(case(name), data, folder / name) for name in CASES}


def run_in(processes: int, data: Path, folder: Path) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{REPO}:{REPO / 'tests'}")
        patch.setenv("OMP_NUM_THREADS", "1")
        status = launch([sys.executable, str(WORKER), str(data), str(folder)], processes)
    assert status == 0
    results = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(processes)]
    assert all(other == results[0] for other in results), "processes drifted apart"
    whole: Results = results[0]
    return whole


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    folder = tmp_path_factory.mktemp("two")
    return run_in(2, data, folder), folder


def assert_close(got: Result, expected: Result) -> None:
    """Losses, diagnostics and rule state to 1e-5; sums over weights take up more rounding."""
    for ours, theirs in zip(got["rows"], expected["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name, value in expected["state"].items():
        assert got["state"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name, value in expected["weights"].items():
        if name.endswith("qkv.bias"):  # the keys' part has no gradient: Adam scales up its rounding
            continue
        assert got["weights"][name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, one: Results, two: tuple[Results, Path]) -> None:
    assert_close(two[0][name], one[name])


def test_four_processes_of_which_one_has_no_labeled_image_train_as_one(
    data: Path, one: Results, tmp_path: Path
) -> None:
    four = run_in(4, data, tmp_path)
    for name in CASES:
        assert_close(four[name], one[name])


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_micro_batches_add_up_to_the_whole_step(
    name: str, parts: int, one: Results, data: Path, tmp_path: Path
) -> None:
    assert_close(run(case(name, train__accumulate=parts), data, tmp_path), one[name])


@pytest.mark.parametrize("name", ["freematch", "mixup", "regularized", "all at once"])
def test_processes_may_have_micro_batches(
    name: str, one: Results, two: tuple[Results, Path]
) -> None:
    assert_close(two[0][f"{name}, accumulated"], one[name])


def test_one_process_continues_what_two_began(
    one: Results, two: tuple[Results, Path], data: Path
) -> None:
    folder = two[1] / "resumed"
    assert {path.name for path in folder.glob("*.json")} >= {"step-000000003.json"}
    assert_close(run(case("semi_mae"), data, folder, save_every=1), one["semi_mae"])


def test_sharded_optimizers_train_as_one_and_continue_in_any_number_of_processes(
    one: Results, two: tuple[Results, Path], data: Path
) -> None:
    assert_close(two[0]["zero1"], one["semi_mae"])  # stopped after 4 steps and continued
    assert_close(two[0]["lora, zero1"], one["lora"])
    resumed = run(
        case("semi_mae", train__sharding="zero1"), data, two[1] / "zero1-resumed", save_every=2
    )
    assert_close(resumed, one["semi_mae"])


def test_all_processes_continue_from_the_checkpoint_that_the_first_one_finds(
    one: Results, two: tuple[Results, Path]
) -> None:
    assert_close(two[0]["at once"], one["semi_mae"])
    assert two[0]["older disk"]["refused"]


def test_the_cases_do_what_they_are_for(one: Results) -> None:
    """Labels count in part, so that rules, skipping and thresholds have something to get wrong."""
    for name in ("fixmatch", "freematch", "mixup", "regularized", "ssmae"):
        used = [row["pseudo/coverage"] for row in one[name]["rows"] if "pseudo/coverage" in row]
        assert any(0 < share < 1 for share in used), (name, used)
    weights = [r["weight/reconstruction"] for r in one["all at once"]["rows"] if "lr" in r]
    assert len(set(weights)) == len(weights)


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_shares_cover_everything_once(count: int) -> None:
    for parts in (1, 2, 3, 5):
        shares = [range(count)[share_of(count, part, parts)] for part in range(parts)]
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
