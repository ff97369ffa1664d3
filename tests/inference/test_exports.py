"""Round trips: other tools compute the same logits from what was written."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from small_models import (
    BACKBONES,
    CHANNELS,
    CLASSES,
    CONVOLUTIONAL,
    IMAGE_SIZE,
    build,
    scramble,
    vit,
)
from support import changed_params
from torch import Tensor

from semimae.backbones.weight_files import license_of
from semimae.data.store import DatasetInfo
from semimae.inference.exports import FORMATS, export
from semimae.model import timm_model
from semimae.model_file import ModelInfo, Trained
from semimae.options.backbone import BackboneConfig
from semimae.types import UserError

STEM = {"stem": vit(stem="conv", stem_width=8, pool="avg")}  # as recipe own_images has it
ALL = BACKBONES | CONVOLUTIONAL | STEM
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def trained(name: str) -> Trained:
    model = build(ALL[name]).eval().requires_grad_(False)
    scramble(model)
    dataset = DatasetInfo(
        name="imagefolder",
        fingerprint="0" * 32,
        num_classes=CLASSES,
        class_names=tuple("abcde"),
        image_size=IMAGE_SIZE,
        channels=CHANNELS,
        packed=True,
        white_level=None,
        cache_size=None,
        mean=MEAN,
        std=STD,
        counts={"train": 9},
        num_skipped=0,
        duplicates_test_train=0,
    )
    cell = changed_params(method="supervised").cell()
    return Trained(
        model,
        ModelInfo(cell=cell.model_copy(update={"backbone": ALL[name]}), dataset=dataset),
    )


def pixels(count: int) -> Tensor:
    source = torch.Generator().manual_seed(7)
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, CHANNELS)
    return torch.randint(0, 256, shape, generator=source, dtype=torch.uint8)


def normalized(images: Tensor) -> Tensor:
    scaled = images.permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (MEAN, STD))
    return ((scaled - mean) / std).float()


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"cnn", "convnext", "stem"}))
def test_timm_computes_the_same_logits(name: str, tmp_path: Path) -> None:
    model = trained(name)
    export(model, "timm", tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = normalized(pixels(3))
    expected = model.model(images)
    assert expected.std() > 0.01, "all logits alike would prove nothing"
    torch.testing.assert_close(loaded(images), expected, rtol=1e-5, atol=1e-5)
    assert loaded.pretrained_cfg["label_names"] == list("abcde")
    data = timm.data.resolve_model_data_config(loaded)
    assert data["input_size"] == (CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    assert tuple(data["mean"]) == MEAN
    assert tuple(data["std"]) == STD
    assert data["crop_pct"] == 1.0


def test_timm_has_no_convolutional_stem(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stem=conv has no counterpart in timm; export .* onnx"):
        export(trained("stem"), "timm", tmp_path)
    assert not any(tmp_path.iterdir())


def test_timm_loads_it_by_its_config_too(tmp_path: Path) -> None:
    """The other documented form: name, arguments and ``pretrained_cfg`` with a file."""
    model = trained("vit_registers")
    export(model, "timm", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    loaded = timm.create_model(
        config["architecture"],
        pretrained=True,
        pretrained_cfg={
            **config["pretrained_cfg"],
            "file": str(tmp_path / "model.safetensors"),
        },
        **config["model_args"],
    ).eval()
    images = normalized(pixels(2))
    torch.testing.assert_close(loaded(images), model.model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_registers", "stem", "rope_mixed", "cnn", "efficientnet"])
def test_onnx_and_torch_export_compute_the_same_logits(name: str, tmp_path: Path) -> None:
    model = trained(name)
    for form in ("torch", "onnx"):
        before = set(tmp_path.iterdir())
        export(model, form, tmp_path)
        assert {path.name for path in set(tmp_path.iterdir()) - before} == set(FORMATS[form].files)
    program = torch.export.load(tmp_path / "model.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 2, 5):  # it was traced with 2
        images = pixels(count)
        expected = model.model(normalized(images))
        torch.testing.assert_close(program(images), expected, rtol=1e-5, atol=1e-5)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMATS)
def test_the_temperature_leaves_with_the_model(form: str, tmp_path: Path) -> None:
    model = trained("vit_registers")
    images = pixels(3)
    expected = model.model(normalized(images)) / 2.5
    model = model._replace(info=model.info.model_copy(update={"temperature": 2.5}))
    export(model, form, tmp_path)
    if form == "timm":
        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        logits = loaded(normalized(images))
    elif form == "onnx":
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    else:
        logits = torch.export.load(tmp_path / "model.pt2").module()(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_copy_that_answers_differently_is_refused_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_pool(config: BackboneConfig, *sizes: int) -> tuple[str, dict[str, object]]:
        architecture, arguments = timm_model(config, *sizes)
        return architecture, arguments | {"pool_include_prefix": True}  # not so in the model

    monkeypatch.setattr("semimae.inference.timm_folder.timm_model", other_pool)
    (tmp_path / "kept").touch()
    with pytest.raises(UserError, match="timm computes different logits from the model"):
        export(trained("vit_registers"), "timm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_timm_has_no_plain_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"like backbone\.name=cnn; choose format onnx or torch"):
        export(trained("cnn"), "timm", tmp_path)
    assert not list(tmp_path.iterdir())


def test_timm_states_licenses() -> None:
    assert license_of("vit_base_patch16_224", "timm:mae") == "cc-by-nc-4.0"
    assert license_of("vit_small_patch16_224", "timm:augreg_in21k") == "apache-2.0"
