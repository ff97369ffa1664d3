"""Files that are no weights, or not of this model."""

import os
from pathlib import Path

import pytest
import torch
from small_models import FLAT, build, save
from small_models import vit as vit_config

from semimae.backbones.weights import load_weights
from semimae.model import SemiModel
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
    with pytest.raises(UserError, match=r"no file; give one, timm:TAG, or null"):
        load_weights(model, "absent.pth", root=tmp_path)
    with pytest.raises(UserError, match=r"holds a Tensor; it must hold named weights"):
        load_weights(model, save(tmp_path / "w.pth", torch.zeros(3)))
    with pytest.raises(
        UserError, match=r"matches nothing in the backbone \(it holds backbone\.vit\.f"
    ):
        load_weights(model, save(tmp_path / "w.pth", {"fc.weight": torch.zeros(3)}))
    path = save(tmp_path / "w.pth", trained.state_dict())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=r"is \S+ there and \S+ in the model"):
        load_weights(build(vit_config(embed_dim=32)), path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
