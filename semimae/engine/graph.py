"""A training step as one CUDA graph, which starts all its operations at once.

A graph repeats the operations that were recorded, on the same memory and with the same numbers of
the host. So a step reads its batch, and all numbers that change, from tensors that stay where they
are.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from semimae.data.sending import sent
from semimae.distributed import world
from semimae.engine.meter import Terms
from semimae.engine.step import Place, TrainStep
from semimae.types import Step, UserError

_PLAIN = 2  # steps of each kind before it is recorded, in which libraries set themselves up

_AHEAD = 4  # steps that the host may be ahead of a GPU; their batches take up its memory


class Recorder(Protocol):
    """Runs calls, and records them."""

    def run(self, call: Callable[[], Terms]) -> Terms:
        """Make a call where it could be recorded."""
        ...

    def record(self, call: Callable[[], Terms]) -> tuple[Terms, Callable[[], None]]:
        """Record what a call computes, without computing it.

        Returns:
            What the call returned, and a function that computes it.
        """
        ...


class CUDARecorder:
    """Records CUDA graphs, on a stream of their own, which share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.started: deque[torch.cuda.Event] = deque()  # when each of the newest steps is done

    def run(self, call: Callable[[], Terms]) -> Terms:
        """Make a call on the stream; what follows waits for it, on the device."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            made = call()
        current.wait_stream(self.stream)
        return made

    def record(self, call: Callable[[], Terms]) -> tuple[Terms, Callable[[], None]]:
        """Record what a call computes. Threads that make views meanwhile are none of it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            made = call()

        def replay() -> None:
            graph.replay()
            self.started.append(torch.cuda.current_stream().record_event())
            if len(self.started) > _AHEAD:  # a replay is started in no time
                self.started.popleft().synchronize()

        return made, replay


def recorder_on(device: torch.device) -> Recorder:
    """Return what records a run's steps.

    Raises:
        UserError: If nothing does.
    """
    if device.type != "cuda":
        raise UserError(
            f"train.graph=true needs a CUDA GPU, and this run is on {device.type}; set it to false."
        )
    if world().size > 1:
        raise UserError(
            f"train.graph=true is for one process, and this run has {world().size}; set it to "
            "false."
        )
    return CUDARecorder(device)


class GraphedStep:
    """Makes the steps of ``TrainStep`` by replaying what it has recorded of them.

    There is a graph for each kind of step: whether gradients are measured, and for whom.
    """

    def __init__(self, step: TrainStep, recorder: Recorder) -> None:
        self.step, self.recorder = step, recorder
        self.inputs: dict[str, Tensor] = {}  # a batch's tensors, "hidden" labels and "numbers"
        self.plain: Counter[tuple[bool, bool]] = Counter()  # steps made without a graph
        self.graphs: dict[tuple[bool, bool], tuple[Terms, Callable[[], None]]] = {}

    def __call__(
        self, step: Step, place: Place, *, logging: bool = False, observing: bool = False
    ) -> Terms:
        """Make a step; see ``TrainStep``.

        Raises:
            UserError: If it cannot be recorded.
        """
        self.fill(step, place)
        kind = logging, observing
        call = partial(self.run, step, *kind)
        if self.plain[kind] < _PLAIN:
            self.plain[kind] += 1
            return self.recorder.run(call)
        if kind not in self.graphs:
            self.graphs[kind] = self.record(call)
        terms, replay = self.graphs[kind]
        replay()
        return terms

    def fill(self, step: Step, place: Place) -> None:
        """Lay a step's batch and numbers where the graphs look for them."""
        numbers = [place.number, place.lr, place.decay, step.batch.progress]
        own = {k: v for k, v in step.batch._asdict().items() if isinstance(v, Tensor)}
        own |= {"hidden": step.hidden_labels}
        own |= {"numbers": sent(torch.tensor(numbers, dtype=torch.float64), own["labels"].device)}
        if not self.inputs:
            self.inputs = {name: torch.empty_like(value) for name, value in own.items()}
        torch._foreach_copy_(list(self.inputs.values()), list(own.values()))

    def run(self, step: Step, logging: bool, observing: bool) -> Terms:
        """Make a step of what ``fill`` has laid down; of ``step`` only sizes are read."""
        fields: dict[str, Any] = dict(self.inputs)
        number, lr, decay, progress = fields.pop("numbers").unbind()
        hidden = fields.pop("hidden")
        batch = step.batch._replace(progress=progress.float(), **fields)
        return self.step(
            Step(batch, hidden),
            Place(number.long(), lr.float(), decay.float()),
            logging=logging,
            observing=observing,
        )

    def record(self, call: Callable[[], Terms]) -> tuple[Terms, Callable[[], None]]:
        """Record a step."""
        try:
            with _capturable(self.step.state.optimizer):
                return self.recorder.record(call)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the step cannot be recorded as a CUDA graph ({reason}); set train.graph: false."
            ) from error


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the optimizer be recorded: what it keeps is on the device anyway, because it is fused."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False
