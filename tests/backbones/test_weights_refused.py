"""Files that are no weights, or not of this model."""

import os
from pathlib import Path

import pytest
import torch
from small_models import FLAT, build, save, timm_model
from small_models import vit as vit_config

from semimae.backbones.weights import load_weights
from semimae.model import SemiModel
from semimae.options.backbone import BackboneConfig
from semimae.types import UserError


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "bad.pth", {"model": {"cls_token": torch.zeros(1)}, "x": Malicious()})
    with pytest.raises(UserError, match=r"holds more than weights .* could run any code"):
        load_weights(build(FLAT["vit"]), path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04}q\x00.", bytes(range(256))])
def test_damaged_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"backbone\.weights=.*(damaged|nothing)"):
        load_weights(build(FLAT["vit"]), name, root=tmp_path)


def test_other_content_is_refused(trained: SemiModel, tmp_path: Path) -> None:
    model = build(vit_config(pos_embed="learned"))
    with pytest.raises(UserError, match=r"not a file; give a file, timm:TAG, hf:ORG/NAME, or"):
        load_weights(model, "absent.pth", root=tmp_path)
    with pytest.raises(UserError, match=r"holds a Tensor; it must hold named weights"):
        load_weights(model, save(tmp_path / "w.pth", torch.zeros(3)))
    with pytest.raises(UserError, match=r"0 of 30 .* lacking blocks\.0.* model: fc\.weight"):
        load_weights(model, save(tmp_path / "w.pth", {"fc.weight": torch.zeros(3)}))
    path = save(tmp_path / "w.pth", {"a": trained.state_dict()})
    with pytest.raises(UserError, match=r"weights_prefix=b: .* has no model there; it has: a\.b"):
        load_weights(model, path, prefix="b")
    path = save(tmp_path / "w.pth", trained.state_dict())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=r"is \S+ there and \S+ in the model"):
        load_weights(build(vit_config(embed_dim=32)), path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


SIZES = {"pos_embed": "learned", "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (vit_config(**SIZES, layer_scale=0.1), vit_config(**SIZES), r"30 of 30 .*\.ls1\.gamma"),
        (vit_config(**SIZES), vit_config(**SIZES, layer_scale=0.1), r"30 of 34 .* lacking .*ls1"),
        (vit_config(**SIZES, num_registers=2), vit_config(**SIZES), r"30 of 30 .*model: reg_token"),
        (
            vit_config(**SIZES),
            vit_config(**SIZES, num_registers=2),
            r"30 of 31 .*lacking reg_token",
        ),
        (vit_config(**SIZES | {"depth": 3}), vit_config(**SIZES), r"model: blocks\.2\..* 8 more"),
        (vit_config(**SIZES), vit_config(**SIZES | {"depth": 3}), r"30 of 42 .* and 9 more"),
        (FLAT["clip"], FLAT["timm_vit"], r"without a place in the model: norm_pre\.bias"),
        (FLAT["timm_vit"], FLAT["clip"], r"lacking norm_pre\.bias, norm_pre\.weight"),
        (FLAT["siglip"], FLAT["timm_vit"], r"lacking cls_token\."),
        (FLAT["timm_vit"], FLAT["siglip"], r"without a place in the model: cls_token\."),
        (
            timm_model(model="vit_small_patch16_dinov3_qkvb", pool="token"),
            FLAT["dinov3"],
            r"without a place in the model: blocks\.0\.attn\.q_bias",
        ),
    ],
    ids=lambda _: "",
)
def test_part_of_a_backbone_is_nothing(
    theirs: BackboneConfig, ours: BackboneConfig, message: str, tmp_path: Path
) -> None:
    source, model = build(theirs, seed=1), build(ours)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = save(tmp_path / "w.pth", source.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, path)
    assert len(str(caught.value)) < 600
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_norms_of_queries_and_keys(trained: SemiModel, tmp_path: Path) -> None:
    norm = {"backbone.vit.blocks.0.attn.q_norm.weight": torch.ones(8)}
    path = save(tmp_path / "w.pth", trained.state_dict() | norm)
    with pytest.raises(UserError, match=r"30 of 30 .* without a place .*: blocks\.0\.attn\.q_norm"):
        load_weights(build(vit_config(pos_embed="learned")), path)


def test_names_of_nobody(trained: SemiModel, tmp_path: Path) -> None:
    """Names that are not known are never a fresh start under a false name."""
    state = {k.replace("blocks.", "stages."): v for k, v in trained.state_dict().items()}
    with pytest.raises(UserError, match=r"6 of 30 .* lacking blocks\.0.* model: stages\.0"):
        load_weights(build(vit_config(pos_embed="learned")), save(tmp_path / "w.pth", state))


def test_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for spec in ("hf:no/such-model", "hf:no/such-model@v1", "hf:a b", "hf:"):
        message = rf"^backbone\.weights={spec} cannot be fetched \(\w+\)"
        with pytest.raises(UserError, match=message):
            load_weights(build(FLAT["vit"]), spec)
