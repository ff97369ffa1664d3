"""The benchmark runs and measures the same work as training."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.baseline import Baseline
from benchmarks.choices import measure_choices, product_error
from benchmarks.decoding import OURS, measure_decoding
from benchmarks.measure import interleaved
from benchmarks.ours import Ours
from benchmarks.settings import SETTINGS, make_cell, make_data, make_params
from benchmarks.startup import GRID, dvc_overhead, finished_grid, first_step
from benchmarks.table import table


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
