"""Random numbers that depend on a key alone, never on how far some generator has been advanced.

Everything random in a run is drawn from ``generator(seed, purpose, step)`` for the whole global
batch. A resumed run therefore continues bit for bit, and each of several processes takes its rows
of the same draw.
"""

import hashlib

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator whose seed is a hash of ``key``.

    >>> torch.equal(torch.rand(3, generator=generator(0, "mask", 7)), uniform((3,), 0, "mask", 7))
    True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniform(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Return float32 draws from [0, 1) of the given shape that depend on ``key`` only."""
    return torch.rand(shape, generator=generator(*key))


def normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Return float32 draws of the standard normal distribution that depend on ``key`` only."""
    return torch.randn(shape, generator=generator(*key))


def permutation(n: int, *key: int | str) -> Tensor:
    """Return a permutation of ``0..n-1``, int64 ``[n]``, that depends on ``key`` only."""
    return torch.randperm(n, generator=generator(*key))
