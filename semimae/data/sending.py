"""From the host to the device, without waiting."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from semimae.types import Step

_ALIGNED = 16  # bytes: any type may begin at a multiple
Made = tuple[Step, torch.cuda.Event | None]  # and when it is there, if another stream makes it


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait until it is there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def sent_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return small tensors of the host on a device, by one copy; the host does not wait."""
    if device.type == "cpu":
        return list(tensors)
    return in_one(tensors, sent(as_one(tensors), device))


def as_one(tensors: Sequence[Tensor]) -> Tensor:
    """Return the bytes of tensors, one after the other, each from an aligned place on."""
    flat = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    return torch.cat([functional.pad(part, (0, -len(part) % _ALIGNED)) for part in flat])


def in_one(tensors: Sequence[Tensor], whole: Tensor) -> list[Tensor]:
    """Return the tensors that ``as_one`` has laid into ``whole``, as views of it."""
    found, start = [], 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        found.append(whole[start : start + size].view(tensor.dtype).view(tensor.shape))
        start += size + -size % _ALIGNED
    return found


def use(device: torch.device) -> None:
    """Make a device a new thread's current one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def received(step: Step, done: torch.cuda.Event | None) -> Step:
    """Let the device's current stream wait for a batch that another one makes."""
    if done is not None:
        current = torch.cuda.current_stream()
        current.wait_event(done)
        for part in (*step.batch, step.hidden_labels):
            if isinstance(part, Tensor):  # else the other stream would take its memory too early
                part.record_stream(current)
    return step
