"""The step as a graph, recorded and repeated on a CPU by a stand-in, against the plain step."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, call, create_autospec

import pytest
import torch
from support import WITH_OWN_PHASE, changed_params, small_rhythm
from torch import Tensor

from benchmarks.recorder import TapeRecorder
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.distributed import World
from semimae.engine import fit as fit_module
from semimae.engine import graph as graph_module
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.fit import fit
from semimae.engine.graph import GraphedStep, recorder_on
from semimae.engine.meter import Terms
from semimae.methods.pseudo import fade_in
from semimae.methods.rules import base_threshold
from semimae.types import Interrupted, UserError

STEPS = 8
CLOCKS = ("time_ms", "seconds", "cpu_seconds", "data_wait")
VARIANTS: dict[str, dict[str, Any]] = {name: {"method": name} for name in WITH_OWN_PHASE} | {
    "ramps": {
        "method": "flexmatch",
        "pseudo_label__threshold": 0.12,
        "pseudo_label__threshold_start": 0.02,
        "pseudo_label__threshold_ramp": 0.9,
        "pseudo_label__lambda_ramp": 0.9,
    },
    "gate": {"method": "ssmae", "ssmae__gate_start": 0.7, "ssmae__gate_accuracy": 0.0},
    "micro-batches": {"method": "freematch", "train__accumulate": 2},
    "regularized": {
        "method": "semi_mae",
        "pseudo_label__mixup": True,
        "pseudo_label__alignment": "labeled",
        "mim__weighting": "gradient",
        "mim__weighting_every": 3,
        "train__drop_path": 0.5,
        "labeled__mixup": 0.8,
        "optim__layer_decay": 0.7,
    },
    "batch norm": {
        "method": "fixmatch",
        "backbone": {"name": "cnn", "width": 4, "depth": 2, "weights": None},
    },
}


def trained(
    data: tuple[Prepared, Split], folder: Path, stop_after: int = 0, **changes: Any
) -> TrainState:
    some = {"pseudo_label__skip_rejected": "never", "train__steps": STEPS, **changes}
    backbone = {"backbone": some.pop("backbone")} if "backbone" in some else {}
    params = changed_params(**some)
    params = type(params).model_validate(params.model_dump() | backbone)
    asked = iter(range(1, STEPS + 1))
    return fit(
        params.cell(),
        *data,
        small_rhythm(**some),
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=lambda: next(asked) == stop_after,
    )


@pytest.fixture
def data(digits: Prepared, digits_split: Split) -> tuple[Prepared, Split]:
    return digits, digits_split


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    """What stands for a GPU's graphs."""
    recorder = TapeRecorder()
    monkeypatch.setattr(fit_module, "recorder_on", lambda device: recorder)
    return recorder


def assert_close(one: TrainState, other: TrainState) -> None:
    ours, theirs = one.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # A key's bias does not change attention: its gradient is rounding, which Adam makes large.
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=name)
    assert [row.keys() for row in one.history] == [row.keys() for row in other.history]
    for row, wanted in zip(one.history, other.history, strict=True):
        same = {k: v for k, v in wanted.items() if k not in CLOCKS}
        assert {k: v for k, v in row.items() if k not in CLOCKS} == pytest.approx(same, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replayed_step_is_the_plain_step(
    variant: str, data: tuple[Prepared, Split], tmp_path: Path, recorder: TapeRecorder
) -> None:
    changes = VARIANTS[variant] | {"train__gradient_every": 3}
    plain = trained(data, tmp_path / "plain", **changes)
    assert recorder.recorded == 0
    graphed = trained(data, tmp_path / "graph", **changes, train__graph=True)
    # Plain steps, and those whose gradients are measured for the log or for the weight.
    assert recorder.recorded == 2
    assert_close(graphed, plain)


def test_a_replayed_run_continues_where_it_was_stopped(
    data: tuple[Prepared, Split], tmp_path: Path, recorder: TapeRecorder
) -> None:
    whole = trained(data, tmp_path / "whole", train__graph=True)
    with pytest.raises(Interrupted):
        trained(data, tmp_path / "parts", stop_after=5, train__graph=True)
    assert recorder.recorded == 2
    assert_close(trained(data, tmp_path / "parts", train__graph=True), whole)


@pytest.mark.parametrize("ramp", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.75])
def test_ramps_are_the_same_for_tensors(ramp: float, progress: float) -> None:
    options = changed_params(
        pseudo_label__threshold_start=0.1, pseudo_label__threshold_ramp=ramp
    ).pseudo_label
    for ramped in (lambda p: fade_in(p, ramp), lambda p: base_threshold(options, p)):
        on_device = ramped(torch.tensor(progress))
        assert isinstance(on_device, Tensor)
        assert on_device.item() == pytest.approx(ramped(progress))


# --- the stand-in keeps what a graph keeps


def test_the_stand_in_repeats_operations_on_the_same_memory_with_the_same_numbers() -> None:
    x, total, number = torch.ones(3), torch.zeros(3), 2.0

    def add() -> Tensor:
        total.add_(x * number)
        return total[:2] + 1

    made, replay = TapeRecorder().record(add)
    assert total.tolist() == [0, 0, 0]  # recording has computed nothing
    x.fill_(5)
    number = 3.0
    for wanted in (10.0, 20.0):
        replay()
        assert total.tolist() == [wanted] * 3
        assert made.tolist() == [wanted + 1] * 2


def test_a_step_that_cannot_be_recorded_is_told_in_a_line(
    data: tuple[Prepared, Split],
    tmp_path: Path,
    recorder: TapeRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = GraphedStep.run

    def reading(self: GraphedStep, *args: Any) -> Any:
        self.inputs["labels"].sum().item()
        return step(self, *args)

    monkeypatch.setattr(GraphedStep, "run", reading)
    with pytest.raises(UserError, match=r"CUDA graph \(the host reads .*; set train\.graph: false"):
        trained(data, tmp_path, train__graph=True)


# --- what is asked of CUDA


def test_graphs_share_a_stream_and_memory_and_the_host_does_not_run_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = torch.cuda
    for name in ("Stream", "CUDAGraph", "graph_pool_handle", "current_stream", "stream"):
        monkeypatch.setattr(cuda, name, MagicMock(name=name))
    monkeypatch.setattr(cuda, "graph", graph := create_autospec(cuda.graph))
    events = [MagicMock() for _ in range(6)]
    cuda.current_stream.return_value.record_event.side_effect = events  # type: ignore[attr-defined]
    recorder = recorder_on(torch.device("cuda"))
    made, replay = recorder.record(lambda: Terms({}, torch.ones(2, 0)))
    recorder.record(lambda: made)
    pool, stream = cuda.graph_pool_handle(), cuda.Stream()
    kept = call(cuda.CUDAGraph(), pool, stream, capture_error_mode="thread_local")
    assert graph.call_args_list == [kept, kept]
    for _ in events:
        replay()
    assert [event.synchronize.call_count for event in events] == [1, 1, 0, 0, 0, 0]
    assert cuda.CUDAGraph().replay.call_count == len(events)  # type: ignore[attr-defined]


# --- where there is none


def test_a_run_on_a_cpu_has_no_graph(data: tuple[Prepared, Split], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs a CUDA GPU, and this run is on cpu; set it to f"):
        trained(data, tmp_path, train__graph=True)


def test_several_processes_have_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "world", lambda: World(0, 2))
    with pytest.raises(UserError, match=r"is for one process, and this run has 2; set it to false"):
        recorder_on(torch.device("cuda"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__processes": 2}, r"not train\.processes=2; set it to false"),
        ({"pseudo_label__skip_rejected": "always"}, r"skip_rejected=always does not; set the latt"),
    ],
)
def test_settings_that_no_graph_can_have_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        changed_params(train__graph=True, **changes).cell()
    changed_params(**changes).cell()
