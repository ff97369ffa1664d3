"""The processes of a run and what they exchange. With one process, every function is the identity.

Processes hold equal weights and equal state. A process makes the views of its share of the global
batch; what must be known of the whole batch, and the gradients, are added up over all processes.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from semimae.types import LostProcess

# What gloo and nccl say when a peer is gone.
_LOST = r"onnection (closed|reset|refused)|Broken pipe|remote process exited"


class World(NamedTuple):
    """The place of this process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine


def launched_world() -> World:
    """Return what a launcher (torchrun, ``pipeline.launch``) says in the environment."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, size, local_rank = (int(os.environ.get(n, d)) for n, d in zip(names, "010", strict=True))
    return World(rank, size, local_rank)


def world() -> World:
    """Return the processes that are connected; one, unless inside ``connected``."""
    return launched_world() if dist.is_initialized() else World()


@contextlib.contextmanager
def connected() -> Iterator[World]:
    """Connect the processes that a launcher has started: gloo for CPU tensors, nccl for CUDA's."""
    if launched_world().size == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    launched = launched_world()
    dist.init_process_group(
        backend,
        init_method=os.environ.get("SEMIMAE_RENDEZVOUS", "env://"),
        rank=launched.rank,
        world_size=launched.size,
    )
    try:
        yield world()
    except RuntimeError as error:
        if not re.search(_LOST, str(error)):
            raise
        raise LostProcess("another process of the run has ended, so this one ends too") from None
    finally:
        dist.destroy_process_group()


def share_of(count: int, part: int, parts: int) -> slice:
    """Return one of ``parts`` neighboring shares of ``count`` things; sizes differ by at most 1.

    >>> [share_of(5, part, 3) for part in range(3)]
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    return slice(count * part // parts, count * (part + 1) // parts)


def own_share(count: int) -> slice:
    """Return this process's share of ``count`` things."""
    rank, size, _ = world()
    return share_of(count, rank, size)


def add_up(tensor: Tensor) -> Tensor:
    """Add a tensor up over all processes, in place; equal bits come out everywhere."""
    if world().size > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_rows(own: Tensor, first: int, total: int) -> Tensor:
    """Return the ``total`` rows of which each process has some; ``own`` begins at row ``first``.

    A sum over rows that are zero elsewhere, so that shares may differ in size.
    """
    if world().size == 1:
        return own
    whole = own.new_zeros(total, *own.shape[1:])
    whole[first : first + len(own)] = own
    return add_up(whole)


def from_first(number: int) -> int:
    """Return the number that the first process passes; all of them wait for it."""
    if world().size == 1:
        return number
    return int(add_up(torch.tensor(number if world().rank == 0 else 0)))


def wait_for_all() -> None:
    """Return when all processes are here."""
    any_process(False)


def any_process(flag: bool) -> bool:
    """Tell whether ``flag`` is true in at least one process; all of them wait for the answer."""
    return flag if world().size == 1 else bool(add_up(torch.tensor(float(flag))))
