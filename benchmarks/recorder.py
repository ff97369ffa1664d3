"""A stand-in for CUDA graphs on a CPU: records the operations of a call, and repeats them.

As in a CUDA graph, memory and the host's numbers are those of the recording, and nothing of Python
runs again. So a step that reads what has changed since from anywhere else gives a wrong result.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Tape(TorchDispatchMode):
    """Keeps the operations that run while it is active, and all of their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.own: set[int] = set()  # storages that the operations have made
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled blocks be compiled: what they consist of is recorded."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host reads a value while the step is recorded")
        for tensor in _written(func, args, kwargs):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.own | self.before.keys():
                self.before[storage.data_ptr()] = storage, storage.clone()
        read = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        self.own |= {t.untyped_storage().data_ptr() for t in _tensors(out)} - read
        self.operations.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        """Take back what was written over: a recording computes nothing."""
        for storage, content in self.before.values():
            storage.copy_(content)

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operations, with the results where they were."""
        for func, args, kwargs, out in self.operations:
            for new, old in zip(_tensors(func(*args, **kwargs)), _tensors(out), strict=True):
                if new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                    old.copy_(new)


class TapeRecorder:
    """Takes the place of ``semimae.engine.graph.CUDARecorder``."""

    recorded = 0  # calls

    def run(self, call: Callable[[], T]) -> T:
        """Make a call."""
        return call()

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record a call."""
        self.recorded += 1
        with Tape() as tape:
            made = call()
        tape.undo()
        return made, tape.replay


def stand_in(wanted: bool) -> AbstractContextManager[object]:
    """Let runs on a CPU record their steps, where that is wanted."""
    recorder_on = "semimae.engine.fit.recorder_on"
    return patch(recorder_on, lambda device: TapeRecorder()) if wanted else nullcontext()


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Return the tensors that an operation writes to: by its schema, which omits BatchNorm's."""
    for place, argument in enumerate(func._schema.arguments):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written or argument.name in ("running_mean", "running_var"):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from _tensors(value)
