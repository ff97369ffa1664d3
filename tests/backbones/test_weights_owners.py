"""Files of other libraries and of authors: loaded, a model makes of images what its owner does."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from small_models import build, draw, save, scramble, timm_model, vit
from torch import Tensor
from torch.nn.functional import cosine_similarity

from semimae.backbones.weight_report import WeightReport
from semimae.backbones.weights import load_weights
from semimae.model import SemiModel
from semimae.options.backbone import BackboneConfig

State = dict[str, Tensor]
OWNERS = Path(__file__).parent / "owners"
SIZES = {"embed_dim": 16, "depth": 2, "num_heads": 2, "pool": "token", "pos_embed": "learned"}
SCALED = {"layer_scale": 1e-5, **SIZES}
CASES: dict[str, tuple[str, BackboneConfig]] = {
    "ViT": ("hf_vit", vit(**SIZES, mlp_ratio=2.0)),
    "DINOv2": ("hf_dinov2", vit(**SCALED, mlp_ratio=2.0)),
    "DINOv2 with registers": (
        "hf_dinov2_registers",
        vit(**SCALED, mlp_ratio=4.0, num_registers=4),
    ),
    # Here the class token has no position of its own.
    "DINOv2 with registers, by timm": (
        "hf_dinov2_registers",
        timm_model(model="vit_small_patch14_reg4_dinov2", pool="token"),
    ),
    "DINOv3": ("hf_dinov3", timm_model(model="vit_small_patch16_dinov3", pool="token")),
    "DINOv3 with biases": (
        "hf_dinov3_bias",
        timm_model(model="vit_small_patch16_dinov3_qkvb", pool="token"),
    ),
}


def golden(name: str) -> tuple[State, Tensor, Tensor]:
    """The weights under their owner's names, images, and the owner's features of them."""
    found = load_file(OWNERS / f"{name}.safetensors")
    weights = {k.removeprefix("model."): v for k, v in found.items() if k.startswith("model.")}
    return weights, found["input.images"], found["expected.features"]


@torch.no_grad()
def assert_equal_features(model: SemiModel, images: Tensor, expected: Tensor) -> None:
    features = model.eval().backbone.features(images)
    assert (1 - cosine_similarity(features, expected)).abs().max() < 1e-5
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)


def assert_whole(model: SemiModel, report: WeightReport) -> None:
    backbone = {k for k in model.state_dict() if k.startswith("backbone.") and ".head." not in k}
    assert report.num_backbone == len(backbone)
    assert not backbone & set(report.missing)


@pytest.mark.parametrize("case", CASES)
def test_hugging_faces_models(case: str, tmp_path: Path) -> None:
    name, config = CASES[case]
    weights, images, expected = golden(name)
    save_file(weights, tmp_path / "model.safetensors")
    model = build(config)
    report = load_weights(model, "model.safetensors", root=tmp_path)
    assert report.layout == "Hugging Face"
    assert_whole(model, report)
    assert_equal_features(model, images, expected)


def test_dinov2s_own_names(tmp_path: Path) -> None:
    """As its authors save a teacher: blocks in chunks, beside the heads of the training."""
    weights, images, expected = golden("hf_dinov2_registers")
    model = build(vit(**SCALED, mlp_ratio=4.0, num_registers=4))
    load_weights(model, save(tmp_path / "w.pth", weights))
    own = {k.removeprefix("backbone.vit."): v for k, v in model.state_dict().items()}
    own = {k: v for k, v in own.items() if not k.startswith("head.")}
    # One position for the class token, none for registers.
    own["pos_embed"] = torch.cat([own["pos_embed"][:, :1], own["pos_embed"][:, 5:]], dim=1)
    own["register_tokens"], own["mask_token"] = own.pop("reg_token"), torch.zeros(1, 16)
    teacher = {f"backbone.{re.sub('^blocks', 'blocks.0', k)}": v for k, v in own.items()}
    heads = {"dino_head.mlp.0.weight": torch.zeros(3, 3)}
    student = {k: torch.zeros_like(v) for k, v in teacher.items()}
    content = {"student": student | heads, "teacher": teacher | heads, "iteration": 3}
    by_timm = timm_model(model="vit_small_patch14_reg4_dinov2", pool="token")
    for config in (by_timm, vit(**SCALED, mlp_ratio=4.0, num_registers=4)):
        model = build(config)
        report = load_weights(model, save(tmp_path / "w.pth", content))
        assert (report.part, report.other_parts) == ("teacher.backbone", ("student.backbone",))
        assert "taken is teacher.backbone, not student.backbone" in str(report)
        assert_equal_features(model, images, expected)


def test_dinov3s_own_names(tmp_path: Path) -> None:
    """One bias for queries, keys and values, in which a mask leaves the keys out."""
    weights, images, expected = golden("hf_dinov3_bias")
    model = build(timm_model(model="vit_small_patch16_dinov3_qkvb", pool="token"))
    load_weights(model, save(tmp_path / "w.pth", weights))
    own = {k.removeprefix("backbone.vit."): v for k, v in model.state_dict().items()}
    own["storage_tokens"] = own.pop("reg_token")
    own |= {"rope_embed.periods": torch.zeros(2), "mask_token": torch.zeros(1, 16)}
    for block in ("blocks.0.", "blocks.1."):
        query, value = own.pop(f"{block}attn.q_bias"), own.pop(f"{block}attn.v_bias")
        own[f"{block}attn.qkv.bias"] = torch.cat([query, torch.ones(16), value])
        own[f"{block}attn.qkv.bias_mask"] = torch.ones(3, 16).index_fill(0, torch.tensor(1), 0)
        own[f"{block}attn.qkv.bias_mask"] = own[f"{block}attn.qkv.bias_mask"].flatten()
        for part in "12":
            own[f"{block}ls{part}.gamma"] = own.pop(f"{block}gamma_{part}")
    model = build(timm_model(model="vit_small_patch16_dinov3_qkvb", pool="token"))
    load_weights(model, save(tmp_path / "w.pth", own))
    assert_equal_features(model, images, expected)


@torch.no_grad()
def test_torchvisions_vit(tmp_path: Path) -> None:
    owner = torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    scramble(owner)
    owner.heads = torch.nn.Identity()  # type: ignore[assignment]
    model = build(vit(**SIZES, mlp_ratio=2.0))
    report = load_weights(model, save(tmp_path / "w.pth", owner.state_dict()))
    assert report.layout == "torchvision"
    assert_whole(model, report)
    assert_equal_features(model, draw(), owner.eval()(draw()))


def mmpretrain(name: str) -> str:
    """The names that MMPretrain's VisionTransformer has for timm's."""
    name = re.sub(r"^norm\.", "ln1.", re.sub(r"\.norm(\d)\.", r".ln\1.", name))
    name = re.sub(r"\.ls1\.gamma", ".attn.gamma1.weight", name)
    name = re.sub(r"\.ls2\.gamma", ".ffn.gamma2.weight", name)
    name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
    name = re.sub(r"^blocks\.", "layers.", name)
    return "backbone." + name.replace("patch_embed.proj.", "patch_embed.projection.")


def test_mmpretrains_names(tmp_path: Path) -> None:
    """They are a renaming of timm's; the package itself pins an old torch."""
    source, model = (build(vit(**SCALED), seed=seed) for seed in (1, 0))
    scramble(source)
    state = {k.removeprefix("backbone.vit."): v for k, v in source.state_dict().items()}
    own = {mmpretrain(k): v for k, v in state.items() if "head" not in k}
    head = {"head.layers.head.weight": torch.zeros(5, 16)}
    report = load_weights(model, save(tmp_path / "w.pth", {"state_dict": own | head}))
    assert report.layout == "MMPretrain"
    assert_whole(model, report)
    assert_equal_features(model, draw(), source.eval().backbone.features(draw()).detach())


# --- wrappers


def wrapped(*places: str) -> Callable[[State], object]:
    def wrap(state: State) -> object:
        content: object = state
        for place in reversed(places):
            if place.endswith("."):
                assert isinstance(content, dict)
                content = {f"{place}{key}": value for key, value in content.items()}
            else:
                content = {place: content, "epoch": 3, "optimizer": {"lr": torch.ones(1)}}
        return content

    return wrap


@pytest.mark.parametrize(
    "places",
    [
        ["model"],
        ["state_dict", "module."],
        ["state_dict_ema"],
        ["model_ema", "_orig_mod."],
        ["teacher", "module.", "backbone."],
        ["student", "encoder."],
        ["state_dict", "module.", "momentum_encoder."],
        ["checkpoint", "model", "module.", "_orig_mod.", "encoder.", "backbone."],
        ["module.", "visual.trunk."],
    ],
    ids=".".join,
)
def test_wrappers_come_off(places: list[str], tmp_path: Path) -> None:
    source, model = (build(vit(**SCALED), seed=seed) for seed in (1, 0))
    scramble(source)
    state = {k.removeprefix("backbone.vit."): v for k, v in source.state_dict().items()}
    report = load_weights(model, save(tmp_path / "w.pth", wrapped(*places)(state)))
    assert (report.missing, report.unexpected, report.dropped) == ((), (), ())
    assert report.part == ".".join(places).replace("..", ".").rstrip(".")
    assert torch.equal(model(draw()), source(draw()))


def test_which_of_several_is_stated_and_can_be_set(tmp_path: Path) -> None:
    models = {name: build(vit(**SIZES), seed=n) for n, name in enumerate(["student", "teacher"])}
    content = {}
    for name, source in models.items():
        scramble(source, seed=len(name))
        content[name] = source.state_dict()
    path = save(tmp_path / "w.pth", content)
    for prefix, name in [(None, "teacher"), ("student", "student"), ("teacher", "teacher")]:
        model = build(vit(**SIZES))
        report = load_weights(model, path, prefix=prefix)
        assert report.part == f"{name}.backbone.vit"
        assert torch.equal(model(draw()), models[name](draw()))
