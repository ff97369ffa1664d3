"""Choices inside the step, each measured alone: what was taken beside what was not."""

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Call, interleaved
from benchmarks.settings import SETTINGS, Setting, make_cell
from semimae.backbones.vit import ViT
from semimae.engine.optim import ema_update
from semimae.mim.masking import random_masking
from semimae.model import SemiModel, build_model

_ATTENTION = ("ViT-Ti/4@32", "ViT-S/16@224")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure_choices(setting: Setting, device: torch.device, rounds: int) -> dict[str, float]:
    """Return seconds by name; what stands before the colon is compared."""
    model = _model(setting).to(device)
    calls: dict[str, Call] = {}
    for name in _ATTENTION:
        for dtype in _DTYPES:
            for form in ("plain", "fused"):
                key = f"attention of {name}, {dtype}: {form}"
                calls[key] = _attention(SETTINGS[name], device, _DTYPES[dtype], form == "plain")
    for kind, options in (("loop", {"foreach": False}), ("foreach", {"foreach": True})):
        calls[f"AdamW: {kind}"] = _optimizer(model, options)
    calls["AdamW: fused"] = _optimizer(model, {"fused": True})
    average = copy.deepcopy(model).requires_grad_(False)
    calls["moving average: loop"] = lambda: _average(average, model)
    calls["moving average: foreach"] = lambda: ema_update(average, model, 0.999)
    calls |= _patch_embedding(model, setting, device)
    seconds = interleaved(calls, device, rounds)
    if device.type == "cpu":
        seconds |= _products(device, rounds)
    return seconds


def product_error() -> float:
    """Return the largest error of an fp32 product at precision "medium", relative to its size."""
    a, b = (torch.randn(512, 512, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    try:
        error = (a @ b - exact).abs().max() / exact.abs().max()
    finally:
        torch.set_float32_matmul_precision("highest")
    return error.item()


def measure_compile(
    setting: Setting, device: torch.device, precision: str, rounds: int
) -> dict[str, float]:
    """Return the seconds of a pass of the model and its gradient, and wall seconds of compiling."""
    images = torch.randn(64, 3, *(setting.image_size,) * 2, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def steps(model: SemiModel) -> Callable[[], None]:
        def step() -> None:
            with autocast:
                loss = model(images).float().square().mean()
            loss.backward()

        return step

    plain = _model(setting).to(device)
    compiled = copy.deepcopy(plain)
    for block in compiled.backbone.vit.blocks:  # type: ignore[attr-defined]
        block.compile()
    began = time.perf_counter()
    steps(compiled)()
    warm_up = time.perf_counter() - began
    seconds = interleaved({"plain": steps(plain), "compiled": steps(compiled)}, device, rounds)
    return seconds | {"first pass, with compiling": warm_up}


def _model(setting: Setting) -> SemiModel:
    cell = make_cell(setting, "cpu", "fp32")
    return build_model(
        cell.backbone,
        cell.mim,
        image_size=setting.image_size,
        channels=3,
        num_classes=10,
        seed=0,
    )


def _attention(setting: Setting, device: torch.device, dtype: torch.dtype, plain: bool) -> Call:
    """Attention of 16 images, forward and backward."""
    tokens = 1 + (setting.image_size // setting.patch_size) ** 2
    width = setting.embed_dim // setting.num_heads
    shape = (3, 16, setting.num_heads, tokens, width)
    query, key, value = torch.randn(shape, device=device, dtype=dtype).unbind(0)
    inputs = [t.detach().requires_grad_() for t in (query, key, value)]
    ones = torch.ones_like(query)

    def call() -> None:
        q, k, v = inputs
        if plain:
            out = ((q * width**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            out = functional.scaled_dot_product_attention(q, k, v)
        torch.autograd.grad(out, inputs, ones)

    return call


def _optimizer(model: SemiModel, options: dict[str, bool]) -> Call:
    parameters = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    step: Call = torch.optim.AdamW(parameters, **options).step  # type: ignore[arg-type]
    return step


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module) -> None:
    for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
        ours.copy_(ours * 0.999 + theirs * 0.001)


def _patch_embedding(model: SemiModel, setting: Setting, device: torch.device) -> dict[str, Call]:
    backbone = model.backbone
    assert isinstance(backbone, ViT)
    images = torch.randn(32, 3, *(setting.image_size,) * 2, device=device)
    ids = random_masking(torch.rand(32, backbone.num_patches, device=device), 0.75).ids_keep

    def gathered(tokens: Tensor) -> Tensor:
        return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))

    def backward(make: Callable[[], Tensor]) -> Call:
        return lambda: make().sum().backward()

    return {
        "patch embedding at 75% hidden: all": backward(lambda: gathered(backbone.tokenize(images))),
        "patch embedding at 75% hidden: visible": backward(lambda: backbone.tokenize(images, ids)),
    }


def _products(device: torch.device, rounds: int) -> dict[str, float]:
    """A product of 1,024 x 1,024 matrices in fp32, by torch's precision setting."""
    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)

    def product(precision: str) -> Call:
        def call() -> None:
            torch.set_float32_matmul_precision(precision)
            try:
                a @ b
            finally:
                torch.set_float32_matmul_precision("highest")

        return call

    names = ("highest", "medium")
    return interleaved({f"fp32 product: {name}": product(name) for name in names}, device, rounds)
