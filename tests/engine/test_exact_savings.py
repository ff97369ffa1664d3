"""What costs less gives the same loss and the same gradients."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_models import BACKBONES, FLAT, build, draw, draw_noise, mae, scramble, simmim, timm_model
from support import Waits, section
from torch import Tensor
from torch._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported

from benchmarks.check import quick_compiler
from semimae.backbones.blocks import can_run_rows, is_block, run_rows, set_plain_attention
from semimae.backbones.swin import Swin
from semimae.engine.device import set_up_model
from semimae.engine.diagnostics import term_gradients
from semimae.methods.pseudo import rows_that_count
from semimae.model import SemiModel

CPU = torch.device("cpu")


def loss_and_gradients(model: SemiModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Classify and reconstruct, as a training step does."""
    images, labels = draw(), torch.tensor([0, 1, 3])
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss = loss + model.mim_loss(images, draw_noise(model.backbone.num_patches))
    model.zero_grad()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, Any]) -> None:
    """Within 1e-5 of the loss, and of each gradient's largest entry."""
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=0)
    assert one[1].keys() == other[1].keys()
    for name, wanted in other[1].items():
        scale = wanted.abs().max().item()
        torch.testing.assert_close(one[1][name], wanted, rtol=1e-5, atol=1e-5 * scale + 1e-9)


def model_of(name: str) -> SemiModel:
    branch = mae(decoder_depth=2) if name in FLAT else simmim()
    model = build(BACKBONES[name], branch)
    for parameter in model.parameters():  # biases and class tokens start at zero
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=_SOURCE))
    return model


_SOURCE = torch.Generator().manual_seed(5)
SAVINGS: dict[str, dict[str, Any]] = {
    "class_token": {"trim": ["class_token"]},
    "hidden_patches": {"trim": ["hidden_patches"]},
    "recompute": {"recompute": True},
    "all": {"trim": ["class_token", "hidden_patches"], "recompute": True},
}


@pytest.mark.parametrize("saving", SAVINGS)
@pytest.mark.parametrize("name", BACKBONES)
def test_a_saving_changes_neither_loss_nor_gradients(name: str, saving: str) -> None:
    model = model_of(name)
    set_up_model(model, section("train", trim=[], recompute=False), CPU)
    dense = loss_and_gradients(model)
    set_up_model(
        model, section("train", **({"trim": [], "recompute": False} | SAVINGS[saving])), CPU
    )
    assert_same(loss_and_gradients(model), dense)


@pytest.mark.parametrize("name", FLAT)
def test_plain_attention_is_fused_attention(name: str) -> None:
    model = model_of(name)
    set_plain_attention(model, False)
    fused = loss_and_gradients(model)
    set_plain_attention(model, True)
    assert_same(loss_and_gradients(model), fused)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(-5, None), slice(2, 4)], ids=str)
@pytest.mark.parametrize(
    "model", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch16_224"]
)
def test_rows_of_a_block_are_those_of_the_whole(model: str, rows: slice, plain: bool) -> None:
    block = build(timm_model(model=model, pool="token")).backbone.vit.blocks[-1]  # type: ignore[attr-defined]
    scramble(block)
    set_plain_attention(block, plain)
    assert can_run_rows(block)
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(run_rows(block, x, rows), block(x)[:, rows], rtol=1e-5, atol=1e-5)


def test_the_class_token_is_all_that_the_last_block_computes() -> None:
    model = model_of("vit")
    seen: list[torch.Size] = []
    last = model.backbone.vit.blocks[-1]  # type: ignore[attr-defined]
    last.mlp.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    model(draw())
    assert seen == [(3, 1, 16)]


def test_the_decoder_predicts_from_hidden_patches_alone() -> None:
    model = model_of("vit")
    seen: list[torch.Size] = []
    last = model.mim.decoder_blocks[-1]  # type: ignore[union-attr,index]
    last.mlp.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    model.mim_loss(draw(), draw_noise())
    assert [shape[1] for shape in seen] == [8]


@pytest.mark.parametrize("name", BACKBONES)
def test_recomputing_keeps_fewer_activations(name: str) -> None:
    model = model_of(name)

    def kept(recompute: bool) -> int:
        set_up_model(model, section("train", recompute=recompute), CPU)
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(draw())
        return sum(sizes)

    assert kept(True) < kept(False)


@pytest.mark.parametrize(
    ("precision", "device", "plain"),
    [
        ("bf16", "cpu", True),
        ("fp32", "cpu", False),
        ("auto", "cpu", False),
        ("auto", "cuda", False),
    ],
)
def test_plain_attention_is_for_half_precision_on_a_cpu(
    precision: str, device: str, plain: bool
) -> None:
    model = model_of("vit")
    set_up_model(model, section("train", precision=precision), torch.device(device))
    parts = [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")]
    assert len(parts) == 4
    assert set(parts) == {not plain}


@pytest.mark.parametrize("name", BACKBONES)
def test_compiling_finds_the_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself is torch's and takes long; that blocks are handed to it is ours."""
    model = model_of(name)
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    set_up_model(model, section("train", compile=True), CPU)
    vit = model.backbone.vit  # type: ignore[attr-defined]
    blocks = (
        [b for stage in vit.layers for b in stage.blocks]
        if isinstance(model.backbone, Swin)
        else list(vit.blocks)
    )
    assert all(is_block(block) for block in blocks)
    assert len(blocks) == len([m for m in compiled if m in blocks])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler silences its own warnings, not errors
def test_a_compiled_model_gives_the_same_loss() -> None:
    model = model_of("vit")
    plain = loss_and_gradients(model)
    names = list(model.state_dict())
    set_up_model(model, section("train", compile=True), CPU)
    compiled = loss_and_gradients(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(compiled[0], plain[0], rtol=1e-5, atol=0)
    for name, wanted in plain[1].items():
        torch.testing.assert_close(compiled[1][name], wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def without_code() -> Iterator[None]:
    """Compile without generating code; what was compiled before is forgotten."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    kept = {"recompile_limit": 8, "fail_on_recompile_limit_hit": False}
    with quick_compiler(True), torch._dynamo.config.patch(kept):  # which it sets back
        yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("default")  # as above
@pytest.mark.usefixtures("without_code")
def test_all_of_the_blocks_is_compiled_and_in_few_forms() -> None:
    """Student and teacher, with and without gradient, whole blocks and rows of the last."""
    model = model_of("vit")
    teacher = copy.deepcopy(model).requires_grad_(False)
    plain = loss_and_gradients(model)
    for part in (model, teacher):
        set_up_model(part, section("train", compile=True), CPU)
    for _ in range(2):
        assert_same(loss_and_gradients(model), plain)
        with torch.no_grad():
            for part in (teacher, model.eval()):
                part(draw(batch=4))
        model.train()
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    last = model.backbone.vit.blocks[-1]  # type: ignore[attr-defined]
    forms = [
        len(_debug_get_cache_entry_list(code))
        for code in (type(last).forward.__code__, run_rows.__code__)
    ]
    assert min(forms) > 0
    assert sum(forms) == counters["stats"]["unique_graphs"] <= 16


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("without_code")
def test_what_cannot_be_compiled_is_an_error_and_not_slow() -> None:
    model = model_of("vit")
    set_up_model(model, section("train", compile=True), CPU)
    first, last = (model.backbone.vit.blocks[i] for i in (0, -1))  # type: ignore[attr-defined]
    for block in (first, last):
        hook = block.mlp.register_forward_pre_hook(lambda module, inputs: print())
        with pytest.raises(Unsupported):
            model(draw())
        hook.remove()
        torch._dynamo.reset()


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("without_code")
def test_more_forms_than_allowed_are_an_error_and_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semimae.engine.device._COMPILED_FORMS", 1)
    model = model_of("vit")
    set_up_model(model, section("train", compile=True), CPU)
    model(draw())
    with pytest.raises(FailOnRecompileLimitHit), torch.no_grad():
        model(draw())


@pytest.mark.filterwarnings("default")  # as above
@pytest.mark.usefixtures("without_code")
def test_a_compiled_model_can_be_asked_for_the_gradient_of_each_term() -> None:
    """It keeps the graph for the next term."""
    model = model_of("vit")
    images, labels = draw(), torch.tensor([0, 1, 3])

    def measured() -> dict[str, Tensor]:
        losses = {
            "supervised": torch.nn.functional.cross_entropy(model(images), labels),
            "reconstruction": model.mim_loss(images, draw_noise(model.backbone.num_patches)),
        }
        found = term_gradients(losses, model)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        return found

    plain = measured()
    set_up_model(model, section("train", compile=True), CPU)
    for name, gradient in measured().items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-5)


# --- views that do not count, padded


@pytest.mark.parametrize("count", range(18))
def test_padded_rows_hold_all_that_count_in_few_sizes(count: int) -> None:
    weight = torch.zeros(17)
    weight[torch.randperm(17, generator=torch.Generator().manual_seed(count))[:count]] = 0.5
    rows = rows_that_count(weight)
    assert set(weight.nonzero().flatten().tolist()) <= set(rows.tolist())
    assert len(rows) == len(set(rows.tolist()))
    assert len(rows) in {0, 3, 6, 9, 12, 15, 17}
    assert len(rows) - count < 3


# --- waiting


@pytest.mark.parametrize(
    ("call", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x[torch.tensor([0, 1])] * 2, 0),
    ],
)
def test_waits_are_seen(call: Callable[[Tensor], object], waits: int) -> None:
    x = torch.arange(3.0)
    with Waits() as mode:
        call(x)
    assert len(mode.seen) == waits
