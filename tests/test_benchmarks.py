"""The benchmark runs and measures the same work as training."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import REPO
from torch.autograd.profiler_util import DeviceType

from benchmarks import check, hours
from benchmarks.__main__ import main
from benchmarks.baseline import Baseline
from benchmarks.check import CHECKS
from benchmarks.choices import measure_choices, product_error
from benchmarks.decoding import CACHE, OURS, lock_shares, measure_decoding, measure_workers
from benchmarks.gpu_study import planned_steps
from benchmarks.loop import PROFILED, summary
from benchmarks.measure import interleaved
from benchmarks.ours import Ours
from benchmarks.settings import SETTINGS, make_cell, make_data, make_params
from benchmarks.startup import GRID, dvc_overhead, finished_grid, first_step
from benchmarks.table import table
from pipeline.overlay import read
from semimae.evaluation.flops import step_flops
from semimae.types import UserError


def test_it_writes_figures_and_their_table(tmp_path: Path) -> None:
    path = main(["--quick", "--settings", "tiny", "--device", "cpu", "--out", str(tmp_path)])
    result = json.loads(path.read_text())
    assert {"device", "torch", "commit", "threads"} <= result["machine"].keys()
    assert set(result["peak"]) == {"fp32", "bf16"}
    tiny = result["settings"]["tiny"]
    assert all(value > 0 for value in tiny["parts"].values())
    assert 0 <= tiny["data_wait"] < 1
    assert tiny["flops"]["60% rejected"] < tiny["flops"]["dense"]
    assert tiny["flops"]["dense"] < tiny["flops"]["baseline, one batch"]
    dense, peer = tiny["seconds"]["dense"], tiny["seconds"]["baseline, one batch"]
    assert tiny["speedup"]["baseline, one batch"]["dense"] == pytest.approx(peer / dense)
    written = path.with_suffix(".md").read_text()
    assert written == table(result)
    assert result["machine"]["torch"] in written


def test_choices_are_compared_with_each_other() -> None:
    seconds = measure_choices(SETTINGS["tiny"], torch.device("cpu"), 1)
    options: dict[str, list[str]] = {}
    for name in seconds:
        subject, _, option = name.partition(": ")
        options.setdefault(subject, []).append(option)
    assert options["AdamW"] == ["loop", "foreach", "fused"]
    assert all(len(compared) >= 2 for compared in options.values())
    assert all(value > 0 for value in seconds.values())
    assert product_error() < 0.05
    assert torch.get_float32_matmul_precision() == "highest"


def test_decoding_is_measured_with_what_is_installed() -> None:
    config = make_params(SETTINGS["tiny"], "cpu", "fp32").data
    milliseconds = measure_decoding(config, 1)
    assert {f"{OURS}: decode, two crops", "Pillow: decode, two crops"} <= milliseconds.keys()
    assert all(value > 0 for value in milliseconds.values())


def test_decoding_and_scaling_leave_the_lock() -> None:
    shares = lock_shares(make_params(SETTINGS["tiny"], "cpu", "fp32").data, 1)
    assert shares.keys() == {"decoded, two crops", f"two crops of copies of {CACHE} px"}
    assert all(share < 1 for share in shares.values())


def test_threads_and_processes_that_decode_are_compared() -> None:
    ways = measure_workers(make_params(SETTINGS["tiny"], "cpu", "fp32").data, 1)
    assert set(ways) == {f"{n} {kind}" for n in (1, 2) for kind in ("threads", "processes")}
    for way, figures in ways.items():
        assert figures["images/s"] > 0
        assert (figures["in all"] > figures["here"]) == way.endswith("processes")


def test_dvc_takes_the_made_up_runs_for_finished(tmp_path: Path) -> None:
    """It raises unless DVC says that everything is up to date."""
    one = {name: values[:1] for name, values in GRID.items()}
    seconds = dvc_overhead(finished_grid(tmp_path / "project", one), 1)
    assert all(s["processor"] > 0 for s in seconds.values())


def test_the_first_row_comes_before_the_end(tmp_path: Path) -> None:
    seconds = first_step(tmp_path / "project")
    assert seconds["wall"] > 0
    assert seconds["processor"] > 0


def test_a_median_is_over_the_rounds_after_the_first() -> None:
    calls: list[str] = []
    pairs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    interleaved(pairs, torch.device("cpu"), 2)
    assert calls == ["a", "b"] * 3


@pytest.mark.parametrize("concatenate", [True, False])
def test_the_baseline_computes_the_same_losses(concatenate: bool, tmp_path: Path) -> None:
    """Otherwise a ratio of times would say nothing."""
    cell = make_cell(SETTINGS["tiny"], "cpu", "fp32", train__threads=1)
    ours = Ours(cell, *make_data(SETTINGS["tiny"], tmp_path), rejected=0.5)
    ours.ema.load_state_dict(ours.model.state_dict())  # the baseline labels with the model
    baseline = Baseline(ours, concatenate=concatenate, rejected=0.5)
    inputs = ours.method.label(ours.model, ours.ema, ours.batch)
    losses = ours.method.losses(ours.model, ours.ema, inputs)
    torch.stack([ours.method.weights[k] * v for k, v in losses.items()]).sum().backward()
    torch.testing.assert_close(baseline.reconstruction(), losses["reconstruction"])
    clipped = cell.optim.grad_clip
    wanted = torch.nn.utils.clip_grad_norm_(ours.parameters, clipped)
    baseline.step()
    theirs = [p.grad for p in baseline.model.parameters() if p.requires_grad]
    for one, other in zip(ours.parameters, theirs, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other, one.grad, rtol=1e-4, atol=1e-5)
    assert wanted > 0


# --- the program for a GPU, on a CPU

# What a machine with a GPU has, and what is carried to it.
THERE = ["torch", "torchvision", "timm", "scikit-learn", "matplotlib", "safetensors"]
CARRIED = "pydantic pydantic-core annotated-types typing-inspection ruamel.yaml ruamel.yaml.clib"


def link_packages(names: list[str], site: Path) -> None:
    """Link packages, and what they need, into an otherwise empty folder."""
    waiting, seen = list(names), set()
    while waiting:
        try:
            found = importlib.metadata.distribution(waiting.pop())
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        if found.name in seen:
            continue
        seen.add(found.name)
        needs = [need for need in found.requires or () if "extra ==" not in need]
        waiting += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs]
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that knows of the packages of such a machine alone."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "site").mkdir()
    link_packages([*THERE, *CARRIED.split()], folder / "site")
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{folder}/site" exec {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)
    return python


def run_bare(command: list[str], bare: Path) -> "subprocess.CompletedProcess[str]":
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DVC", "MLFLOW"))}
    variables = kept | {"PYTHON": str(bare), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_the_library_needs_few_packages(bare: Path) -> None:
    every = """
import importlib, pkgutil, semimae
names = [found.name for found in pkgutil.walk_packages(semimae.__path__, "semimae.")]
print(len([importlib.import_module(name) for name in names]))
try:
    import mlflow
except ModuleNotFoundError:
    print("alone")
"""
    done = run_bare([str(bare), "-c", every], bare)
    assert done.returncode == 0, done.stderr
    count, alone = done.stdout.split()
    assert int(count) > 50
    assert alone == "alone"


def test_the_gpu_program_is_rehearsed_with_what_such_a_machine_has(
    bare: Path, tmp_path: Path
) -> None:
    script = str(REPO / "benchmarks" / "gpu_program.sh")
    done = run_bare(["bash", script, str(tmp_path / "out"), "--rehearse"], bare)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert kept == ["bench.log", "check.log", "results.tar.gz", "setup.log", "study.log"]
    shutil.unpack_archive(tmp_path / "out" / "results.tar.gz", tmp_path, filter="data")
    results = tmp_path / "results"
    checks = json.loads((results / "check.json").read_text())["checks"]
    outcomes = {name: check["outcome"] for name, check in checks.items()}
    assert outcomes.pop("waits") == "skipped: only CUDA can tell"
    assert set(outcomes.values()) == {"passed"}
    assert set(outcomes) == CHECKS.keys() - {"waits"}
    bench = json.loads((results / "bench.json").read_text())["settings"]["tiny"]
    assert bench.keys() == {"eager", "graph", "FixMatch, eager", "compiled"}
    assert all(figures["unlabeled_per_second"] > 0 for figures in bench.values())
    assert all(figures["profile"]["operations"] > 100 for figures in bench.values())
    assert "Two seeds give a direction" in (results / "study" / "study.md").read_text()


def test_a_check_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(bench: check.Bench) -> check.Figures:
        return check.within("error", float("nan"), 1.0)

    monkeypatch.setattr(check, "CHECKS", {"bad": wrong, "good": lambda bench: {"figure": 1.0}})
    assert check.main(["--rehearse", "--out", str(tmp_path / "check.json")]) == 1
    said = capsys.readouterr().out
    assert "bad: failed: Wrong: error is nan, allowed: 1" in said
    assert "good: passed" in said
    written = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert written["good"]["figures"] == {"figure": 1.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_there_is_nothing_to_check() -> None:
    with pytest.raises(UserError, match="there is no GPU here; --rehearse"):
        check.main([])


def test_the_study_fits_the_time_that_is_left(tmp_path: Path) -> None:
    bench = tmp_path / "bench.json"
    assert planned_steps(bench, 200.0) == int(0.75 * 200 / (4 * 0.015))
    bench.write_text(json.dumps({"settings": {"ViT-Ti/4@32": {"eager": {"seconds": 0.03}}}}))
    assert planned_steps(bench, 200.0) == int(0.75 * 200 / (4 * 0.03))
    assert planned_steps(bench, 1.0) == 200


def test_busy_time_is_that_of_kernels_that_overlap_counted_once() -> None:
    def event(start: float, end: float, name: str = "gemm") -> Any:
        times = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(device_type=DeviceType.CUDA, time_range=times, name=name)

    events = [event(0, 300e3), event(200e3, 500e3), event(800e3, 900e3, "copy")]
    said = summary(SimpleNamespace(events=lambda: events), wall=1.0)  # type: ignore[arg-type]
    assert said["busy"] == pytest.approx(0.6)
    assert said["launches"] == len(events) / PROFILED
    assert list(said["most"]) == ["gemm", "copy"]


# --- the hours that recipes state


def test_a_recipe_states_the_hours_that_are_computed() -> None:
    """Also those of the others, which take long to count: `python -m benchmarks.hours`."""
    path = hours.RECIPES / "cifar10.yaml"
    assert path in hours.computed()
    text = path.read_text()
    assert hours.written(text, read(path), hours.newest_rate(192)) == text


def test_hours_follow_the_newest_measured_rate(tmp_path: Path) -> None:
    assert hours.newest_rate(192, tmp_path) is hours.ASSUMED
    for name, day, seconds in (("old", 1, 9.0), ("new", 2, 0.02)):
        eager = {"eager": {"seconds": seconds, "flops": 4e12}}
        result = {
            "machine": {"kind": "cuda"},
            "measured": f"2026-12-0{day}T00:00:00+00:00",
            "settings": {"ViT-Ti/4@32": eager, "ViT-B/16@224": {"eager": {"failed": "no"}}},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    rate = hours.newest_rate(768, tmp_path)
    assert (rate.flops, rate.step_seconds) == (pytest.approx(2e14), 0.02)
    assert rate.source == "benchmarks/results/new.json"


def test_a_run_takes_what_the_slower_of_computing_and_decoding_takes() -> None:
    changes = {"train__steps": 100, "train__batch_size": 8, "optim__warmup_steps": 0}
    cell = make_cell(SETTINGS["tiny"], "cuda", "bf16", **changes)
    slow = hours.Rate(1.0, 0.5, "")  # an operation per second
    computing, decoding = hours.seconds_of(cell, slow)
    assert computing == 100 * step_flops(cell, 10)
    assert decoding == 0  # small images are packed
    assert hours.seconds_of(cell, hours.Rate(1e30, 0.5, ""))[0] == 50
    large = cell.model_copy(update={"data": cell.data.model_copy(update={"image_size": 128})})
    assert hours.seconds_of(large, slow)[1] == 100 * large.images_per_step / hours.DECODED
