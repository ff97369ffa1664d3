"""Residual branches that are left out: as timm leaves them out, by draws that are passed in."""

import copy
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any

import pytest
import torch
from small_models import (
    BACKBONES,
    CLASSES,
    FLAT,
    build,
    draw,
    draw_noise,
    mae,
    scramble,
    simmim,
    timm_model,
)
from support import section
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn

from semimae.backbones.blocks import path_rates
from semimae.engine.device import set_up_model
from semimae.model import SemiModel

CPU = torch.device("cpu")
RATE, IMAGES = 0.6, 6
Found = tuple[Tensor, dict[str, Tensor]]


def model_of(name: str) -> SemiModel:
    model = build(BACKBONES[name], mae(decoder_depth=2) if name in FLAT else simmim())
    scramble(model)
    return model


def draw_paths(model: SemiModel, count: int = IMAGES) -> Tensor:
    """Factors as training draws them."""
    rates = path_rates(RATE, model.backbone.num_blocks)
    draws = torch.rand(count, len(rates), generator=torch.Generator().manual_seed(4))
    return (draws >= rates) / (1 - rates)


def timm_copy(model: SemiModel) -> SemiModel:
    """The same model with timm's own stochastic depth in its blocks."""
    other = copy.deepcopy(model).train()
    blocks = other.backbone.blocks  # type: ignore[attr-defined]
    for block, rate in zip(blocks, calculate_drop_path_rates(RATE, len(blocks)), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
    return other


@pytest.fixture
def given_to_timm(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], None]:
    """Answer timm's draws, which it makes for each branch with a rate, from our factors."""

    def give(paths: Tensor) -> None:
        draws: Iterator[Tensor] = iter(paths[:, 2:].unbind(1))  # the first block draws nothing

        def bernoulli_(self: Tensor, keep: float) -> Tensor:
            return self.copy_((next(draws) > 0).reshape(self.shape))

        monkeypatch.setattr(torch.Tensor, "bernoulli_", bernoulli_)

    return give


@pytest.mark.parametrize("trim", [[], ["class_token"]])
@pytest.mark.parametrize("name", BACKBONES)
def test_branches_are_left_out_as_timm_leaves_them_out(
    name: str, trim: list[str], given_to_timm: Callable[[Tensor], None]
) -> None:
    model = model_of(name)
    theirs = timm_copy(model)
    set_up_model(theirs, section("train", trim=[]), CPU)
    set_up_model(model, section("train", trim=trim), CPU)
    images, paths = draw(batch=IMAGES), draw_paths(model)
    assert 0 < (paths == 0).float().mean() < 1
    given_to_timm(paths)
    wanted = theirs(images)
    torch.testing.assert_close(model(images, paths), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(images), wanted, atol=1e-3)


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_rates_grow_as_in_timm(depth: int) -> None:
    wanted = calculate_drop_path_rates(0.3, depth)
    assert path_rates(0.3, depth).tolist() == [rate for rate in wanted for _ in range(2)]


@pytest.mark.parametrize("name", BACKBONES)
def test_factors_of_one_change_no_bit(name: str) -> None:
    model, images = model_of(name), draw()
    ones = torch.ones(len(images), 2 * model.backbone.num_blocks)
    assert torch.equal(model(images, ones), model(images))


@pytest.mark.parametrize("name", BACKBONES)
def test_each_image_has_paths_of_its_own(name: str) -> None:
    """So that shares of a batch, and batches without rejected views, see what the whole sees."""
    model, images = model_of(name), draw(batch=IMAGES)
    paths = draw_paths(model)
    whole, rows = model(images, paths), torch.tensor([4, 1])
    torch.testing.assert_close(model(images[rows], paths[rows]), whole[rows], rtol=1e-5, atol=1e-5)


# --- with what saves work


def student_and_branch(model: SemiModel, paths: Tensor | None) -> Found:
    """A step's two passes through the encoder, of which one alone leaves branches out."""
    images, labels = draw(batch=IMAGES), torch.arange(IMAGES) % CLASSES
    loss = torch.nn.functional.cross_entropy(model(images, paths), labels)
    loss = loss + model.mim_loss(images, draw_noise(model.backbone.num_patches, IMAGES))
    model.zero_grad()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def assert_same(one: Found, other: Found) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=0)
    assert one[1].keys() == other[1].keys()
    for name, wanted in other[1].items():
        scale = wanted.abs().max().item()
        torch.testing.assert_close(one[1][name], wanted, rtol=1e-5, atol=1e-5 * scale + 1e-8)


SAVINGS: dict[str, dict[str, Any]] = {
    "trim": {"trim": ["class_token", "hidden_patches"]},
    "recompute": {"recompute": True},
    "both": {"trim": ["class_token", "hidden_patches"], "recompute": True},
}


@pytest.mark.parametrize("saving", SAVINGS)
@pytest.mark.parametrize("name", BACKBONES)
def test_savings_stay_exact(name: str, saving: str) -> None:
    """Recomputed blocks must leave out what they left out before, and nothing in the branch."""
    model = model_of(name)
    paths = draw_paths(model)
    set_up_model(model, section("train", trim=[], recompute=False), CPU)
    dense = student_and_branch(model, paths)
    assert dense[0] != student_and_branch(model, None)[0]
    options = {"trim": [], "recompute": False} | SAVINGS[saving]
    set_up_model(model, section("train", **options), CPU)
    assert_same(student_and_branch(model, paths), dense)


@pytest.mark.filterwarnings("default")  # the compiler silences its own warnings, not errors
@pytest.mark.parametrize("name", ["vit", "eva02"])  # Swin takes minutes, also without
def test_compiled_blocks_leave_out_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are not compiled anew for each step's factors."""
    model = model_of(name)
    paths = draw_paths(model)
    plain = [student_and_branch(model, p) for p in (paths, paths.flip(0), None)]
    compiled: list[object] = []

    def backend(module: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        compiled.append(module)
        return module.forward

    compile_block = partialmethod(nn.Module.compile, backend=backend)
    monkeypatch.setattr(nn.Module, "compile", compile_block)
    set_up_model(model, section("train", trim=[], compile=True), CPU)
    for p, wanted in zip((paths, paths.flip(0), None), plain, strict=True):
        found = student_and_branch(model, p)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)
        for key, gradient in wanted[1].items():
            torch.testing.assert_close(found[1][key], gradient, rtol=1e-4, atol=1e-5)
    count = len(compiled)
    student_and_branch(model, paths.roll(1, 0))
    assert len(compiled) == count


@pytest.mark.parametrize(
    ("model", "fits"),
    [("vit_base_patch16_rpn_224", True), ("vit_small_patch16_18x2_224", False)],
)
def test_blocks_without_two_branches_are_known(model: str, fits: bool) -> None:
    assert build(timm_model(model=model)).backbone.has_paths == fits
