"""Repositories of the Hugging Face Hub, which a folder stands for here."""

import json
from pathlib import Path

import pytest
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import EntryNotFoundError
from small_models import build, vit

from semimae.backbones import weight_files
from semimae.backbones.weights import load_weights
from semimae.types import UserError

MODEL = vit(embed_dim=16, depth=2, num_heads=2)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def fetch(name: str, file: str, *, revision: str | None) -> str:
        assert (name, revision) == ("org/model", "v1")
        if not (tmp_path / file).exists():
            raise EntryNotFoundError(f"404: {file}")
        return str(tmp_path / file)

    monkeypatch.setattr(weight_files, "hf_hub_download", fetch)
    return tmp_path


def test_several_files_are_one_model(repository: Path) -> None:
    """The hub's own client splits a model as the repositories of large models are."""
    theirs = build(MODEL, seed=1)
    save_torch_state_dict(theirs.state_dict(), repository, max_shard_size="8KB")
    parts = list(repository.glob("model-*.safetensors"))
    assert len(parts) > 2
    (repository / "README.md").write_text("---\nlicense: apache-2.0\n---\n")

    model = build(MODEL, seed=2)
    report = load_weights(model, "hf:org/model@v1")

    own = model.state_dict()
    assert all(own[name].equal(tensor) for name, tensor in theirs.state_dict().items())
    assert report.license == "apache-2.0"
    first = report.sha256
    theirs.state_dict()["backbone.vit.cls_token"].add_(1)
    save_torch_state_dict(theirs.state_dict(), repository, max_shard_size="8KB")
    assert load_weights(model, "hf:org/model@v1").sha256 != first


def test_a_file_of_the_index_is_missing(repository: Path) -> None:
    save_torch_state_dict(build(MODEL).state_dict(), repository, max_shard_size="8KB")
    min(repository.glob("model-*.safetensors")).unlink()
    with pytest.raises(UserError, match=r"cannot be fetched \(EntryNotFoundError\)"):
        load_weights(build(MODEL), "hf:org/model@v1")


def test_an_index_of_another_kind(repository: Path) -> None:
    (repository / "model.safetensors.index.json").write_text(json.dumps({"files": []}))
    with pytest.raises(UserError, match=r"cannot be fetched \(KeyError\)"):
        load_weights(build(MODEL), "hf:org/model@v1")
