"""Where and in which precision a run computes."""

import os
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from semimae.backbones.blocks import compile_block, is_block, set_plain_attention
from semimae.distributed import world
from semimae.model import SemiModel
from semimae.options.train import CellTrain
from semimae.types import UserError

_COMPILED_FORMS = 64  # of the code of a block
_BF16_WIDTH = 192  # ViT-Ti's
_BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86's, then Arm's


def set_up_device(config: CellTrain) -> torch.device:
    """Return the device of a run and fix the number of CPU threads.

    Raises:
        UserError: If the device that was asked for is not there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = config.device
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[name]:
        allowed = ", ".join(["auto", *(device for device, is_there in there.items() if is_there)])
        raise UserError(f"train.device={name} is not available here; choose one of {allowed}.")
    if name == "cuda" and world().size > 1:
        count, local_rank = torch.cuda.device_count(), world().local_rank
        if local_rank >= count:
            raise UserError(
                f"process {local_rank} of this machine has no GPU: it has {count}; start at most "
                "one process per GPU (train.processes, or torchrun's --nproc-per-node)."
            )
        torch.cuda.set_device(local_rank)
    # Of the process, so it is also set back.
    tf32 = name == "cuda" and config.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    _repeat_bits(name == "cuda" and config.deterministic)
    # With its number: threads that make views begin with another current device.
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def _repeat_bits(wanted: bool) -> None:
    """Let CUDA use algorithms alone that give the same bits again; also of the process.

    Fused attention of the flash kind adds its gradients up in any order; the memory-efficient one
    does not, where deterministic algorithms are asked for (torch's documentation of both).
    """
    if wanted:  # which cuBLAS reads once, when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = wanted
        torch.backends.cuda.enable_flash_sdp(not wanted)
        torch.backends.cuda.enable_cudnn_sdp(not wanted)


def device_name(device: torch.device) -> str:
    """Return what a device calls itself, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def make_autocast(
    config: CellTrain, device: torch.device, width: int
) -> Callable[[], torch.autocast]:
    """Return a maker of the autocast context of a run.

    Args:
        config: Names the precision.
        device: Where the run computes.
        width: Of the model's tokens, on which the precision ``auto`` depends on a CPU.
    """
    in_bf16 = is_bf16(config, device, width)
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=in_bf16)


def set_up_model(model: SemiModel, config: CellTrain, device: torch.device) -> None:
    """Choose how a model computes, which changes its cost and not its result.

    On a CPU fused attention in bf16 takes 1.4 to 8 times as long as plain attention from 10 to 577
    tokens, forward and backward (docs/performance.md). In fp32 both are equal at short lengths.
    """
    in_bf16 = is_bf16(config, device, model.backbone.embed_dim)
    set_plain_attention(model, device.type == "cpu" and in_bf16)
    model.backbone.trim = "class_token" in config.trim
    model.backbone.recompute = config.recompute
    if model.mim is not None:
        model.mim.trim = "hidden_patches" in config.trim
        model.mim.recompute = config.recompute
    if config.compile:
        # Of the process. Measuring a term's gradient keeps the graph, which donations forbid. The
        # code of a block is compiled anew for student and teacher, with and without gradient, and
        # for each number of tokens; torch would stop at 8 and go on uncompiled without a word.
        torch._functorch.config.donated_buffer = False
        torch._dynamo.config.recompile_limit = _COMPILED_FORMS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        for module in model.modules():
            if is_block(module):
                compile_block(module)


def is_bf16(config: CellTrain, device: torch.device, width: int) -> bool:
    """Tell whether products are in bf16.

    On a CPU without units for it they take several times as long as in fp32, and in narrow models
    the casts may cost more than the units save (docs/performance.md).
    """
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cpu":
        return width >= _BF16_WIDTH and _has_bf16_units()
    return device.type == "cuda"


def _has_bf16_units() -> bool:
    """Tell whether the processor multiplies matrices of bf16; older versions of torch cannot."""
    features: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(features.get(name, False) for name in _BF16_UNITS)
