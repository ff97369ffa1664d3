"""What of a backbone is trained, and what becomes of it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import BACKBONES, CONVOLUTIONAL, build, draw, scramble, timm_model, vit
from support import small_rhythm
from torch.nn import functional

from semimae.backbones.tuning import merged_state, tune
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.fit import fit
from semimae.engine.optim import parameter_groups
from semimae.model import SemiModel, model_of
from semimae.model_file import open_model, save_model
from semimae.options.backbone import BackboneOptions, LoRAConfig
from semimae.options.cell import Cell
from semimae.types import Interrupted, UserError

LORA = LoRAConfig(rank=3, alpha=6.0, targets=("qkv", "proj", "fc1"))
TUNINGS = ("lora", "bitfit", "head")
MakeCell = Callable[..., Cell]


def source() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def tuned(config: BackboneOptions, tuning: str, lora: LoRAConfig = LORA) -> SemiModel:
    changes = {"tuning": tuning, "lora": lora if tuning == "lora" else None}
    config = config.model_copy(update=changes)
    model = build(config, image_size=32)  # type: ignore[arg-type]
    scramble(model)
    tune(model.backbone, config, source())  # type: ignore[arg-type]
    return model


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_lora_trains_as_peft_does() -> None:
    """From the same factors, the same steps of AdamW lead to the same merged weights."""
    golden = load_file(Path(__file__).parent / "owners" / "peft_lora.safetensors")

    def part(name: str) -> dict[str, torch.Tensor]:
        return {k[len(name) :]: v for k, v in golden.items() if k.startswith(name)}

    config = timm_model(pool="token").model_copy(update={"tuning": "lora", "lora": LORA})
    model = build(config, num_classes=3)
    backbone = model.backbone
    backbone.vit.load_state_dict(part("start."))  # type: ignore[attr-defined]
    tune(backbone, config, source())
    factors = part("factors.")
    for name, parameter in backbone.vit.named_parameters():  # type: ignore[attr-defined]
        layer, _, rest = name.partition(".parametrizations.weight.0.")
        if rest:
            theirs = {"down": "lora_A", "up": "lora_B"}[rest]
            parameter.data = factors.pop(f"{layer}.{theirs}.default.weight")
    assert not factors
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    images = golden["input.images"]
    losses = []
    for _ in range(4):
        loss = functional.cross_entropy(model(images), torch.arange(len(images)) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), golden["expected.losses"])
    merged = {k.removeprefix("backbone.vit."): v for k, v in merged_state(model).items()}
    for name, theirs in part("merged.").items():
        torch.testing.assert_close(merged[name], theirs, rtol=1e-4, atol=1e-5)
    moved = [k for k, v in part("merged.").items() if not torch.equal(v, golden[f"start.{k}"])]
    assert len(moved) == 2 * 3 + 2  # three matrices per block, and the classifier


@pytest.mark.parametrize("name", BACKBONES)
def test_it_begins_as_the_backbone_and_merges_into_it(name: str) -> None:
    """Of any family: factors change what it computes, and the merged model computes the same."""
    plain, model = tuned(BACKBONES[name], "full"), tuned(BACKBONES[name], "lora")
    images = draw(size=32)
    before = plain(images)
    assert torch.equal(model(images), before)
    assert merged_state(model).keys() == plain.state_dict().keys()
    factors = [p for n, p in model.named_parameters() if ".parametrizations.weight.0." in n]
    assert factors
    for number, parameter in enumerate(factors):
        parameter.data = 0.3 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(number)
        )
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close(model(images), plain(images), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain(images), before, rtol=1e-2)
    groups = parameter_groups(model, model.backbone, weight_decay=0.1, layer_decay=0.5)
    assert {n for group in groups for n in group["names"]} == trained(model)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_trained(name: str) -> None:
    head = {n for n in trained(build(BACKBONES[name])) if ".head." in n}
    assert trained(tuned(BACKBONES[name], "full")) == trained(build(BACKBONES[name]))
    assert trained(tuned(BACKBONES[name], "head")) == head
    biases = {n for n in trained(build(BACKBONES[name])) if n.endswith("bias")}
    assert trained(tuned(BACKBONES[name], "bitfit")) == head | biases
    low_rank = trained(tuned(BACKBONES[name], "lora")) - head
    assert all(n.endswith((".weight.0.up", ".weight.0.down")) for n in low_rank)


def test_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(UserError, match=r"targets: got 'q', but the backbone has fc1, fc2, proj,"):
        tuned(vit(), "lora", LORA.model_copy(update={"targets": ("q",)}))
    with pytest.raises(UserError, match=r"tuning=head is not for backbones with BatchNorm"):
        tuned(CONVOLUTIONAL["resnet"], "head")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"'qkv', but the backbone has no blocks of linear layers"):
        tuned(CONVOLUTIONAL["convnext"], "lora")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tuning=lora keeps most weights .* weights=null"):
        vit(tuning="lora")
    with pytest.raises(ValueError, match=r"tuning=lora needs lora"):
        vit(tuning="lora", lora=None, weights="w.pth")


# --- training


def cell_of(small_cell: MakeCell, method: str, tuning: str, **changes: object) -> Cell:
    cell = small_cell(
        method,
        backbone__weights="start.safetensors",
        backbone__tuning=tuning,
        train__ema_decay=0.5,
        train__steps=6,
        optim__lr=1e-2,
        pseudo_label__threshold=0.0,
        **changes,
    )
    assert (cell.backbone.lora is None) == (tuning != "lora")
    return cell


@pytest.fixture
def start(small_cell: MakeCell, digits: Prepared, tmp_path: Path) -> Prepared:
    """The digits, with starting weights in their folder."""
    cell = small_cell("supervised")
    model = model_of(cell, digits)
    scramble(model)
    save_file(model.state_dict(), tmp_path / "start.safetensors")
    return dataclasses.replace(digits, root=tmp_path)


def run(
    cell: Cell, prepared: Prepared, split: Split, folder: Path, stop: int | None = None
) -> TrainState:
    steps = iter(range(1, 100))
    return fit(
        cell,
        prepared,
        split,
        small_rhythm(train__save_every=2),
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=lambda: next(steps) == stop,
    )


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("method", ["supervised", "semi_mae"])
def test_a_trained_model_is_plain(
    method: str, tuning: str, small_cell: MakeCell, start: Prepared, digits_split: Split,
    tmp_path: Path,
) -> None:  # fmt: skip
    """It has the names and the size of any other one, and gives what the average gave."""
    changes = {"mim__weighting": "gradient", "mim__weighting_every": 2}
    cell = cell_of(small_cell, method, tuning, **changes)
    state = run(cell, start, digits_split, tmp_path / "checkpoints")
    paths = [tmp_path / "tuned.safetensors", tmp_path / "full.safetensors"]
    save_model(state.ema, cell, start.info, paths[0])
    save_model(model_of(cell, start), cell, start.info, paths[1])
    sizes = []
    for path in paths:
        with safe_open(path, "pt") as file:
            sizes.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    assert sizes[0] == sizes[1]
    opened = open_model(paths[0], branch=True)
    images = draw(1, cell.data.image_size)
    torch.testing.assert_close(opened.model(images), state.ema.eval()(images))
    assert opened.info.start is not None
    assert opened.info.start.num_backbone == 30
    first, last = model_of(cell, start).state_dict(), opened.model.state_dict()
    moved = {n for n in first if n.startswith("backbone.") and not torch.equal(first[n], last[n])}
    inside = {n for n in moved if ".head." not in n}
    assert moved - inside == {"backbone.vit.head.bias", "backbone.vit.head.weight"}
    ends = {"lora": (".qkv.weight", ".proj.weight", ".fc1.weight", ".fc2.weight"), "head": ()}
    assert all(n.endswith(ends.get(tuning, ("bias",))) for n in inside)
    assert bool(inside) == (tuning != "head")
    # The average lags behind the student in what is trained, and in nothing else.
    students = dict(state.model.named_parameters())
    for name, average in state.ema.named_parameters():
        assert torch.equal(average, students[name]) == (name not in trained(state.model)), name


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_stopped_run_ends_with_the_same_bits(
    tuning: str, small_cell: MakeCell, start: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = cell_of(small_cell, "fixmatch", tuning)
    whole = run(cell, start, digits_split, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(cell, start, digits_split, tmp_path / "parts", stop=3)
    parts = run(cell, start, digits_split, tmp_path / "parts")
    ours, theirs = parts.tensors(), whole.tensors()
    for name in theirs.keys() - {n for n in theirs if n.startswith("meter.")}:
        assert torch.equal(ours[name], theirs[name]), name
