"""Write a trained model as a folder that timm loads, with timm's names."""

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch import nn

from semimae.backbones.weight_report import ENCODER
from semimae.model import timm_model
from semimae.model_file import WEIGHTS, Trained

CONFIG = "config.json"


def write_timm(trained: Trained, folder: Path) -> None:
    """Write weights under timm's names, and ``config.json``.

    Raises:
        UserError: If timm has no such model.
    """
    config = _config(trained)
    state = trained.model.state_dict()
    if trained.info.temperature is not None:  # folded into the last layer: timm has no such option
        last = {id(p) for p in trained.model.backbone.classifier.parameters()}
        names = [name for name, p in trained.model.named_parameters() if id(p) in last]
        state |= {name: state[name] / trained.info.temperature for name in names}
    tensors = {k.removeprefix(ENCODER): v.cpu().contiguous() for k, v in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_timm(folder: Path) -> nn.Module:
    """Load the model of a folder with timm."""
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval().requires_grad_(False)


def _config(trained: Trained) -> dict[str, Any]:
    """Return the architecture, sizes, class names, and preprocessing of images."""
    info = trained.info
    dataset = info.dataset
    size, channels, num_classes = dataset.image_size, dataset.channels, dataset.num_classes
    architecture, arguments = timm_model(info.cell.backbone, size, channels, num_classes)
    known = get_pretrained_cfg(architecture)
    layers = {"first_conv": known.first_conv, "classifier": known.classifier} if known else {}
    return {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": trained.model.backbone.embed_dim,
        "global_pool": "token" if info.cell.backbone.pool == "token" else "avg",
        "model_args": arguments,
        "label_names": list(dataset.class_names),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [channels, size, size],
            "fixed_input_size": "img_size" in arguments,  # convolutions accept any size
            "interpolation": "bicubic",
            "crop_pct": trained.center,
            "crop_mode": "center",
            "mean": list(info.mean),
            "std": list(info.std),
            "num_classes": num_classes,
            **layers,
        },
    }
