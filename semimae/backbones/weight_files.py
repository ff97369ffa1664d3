"""Reading files of weights, without running code that may be in them."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from semimae.types import UserError

TIMM = "timm:"


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file. No code in it is run: pickles are opened with weights_only.

    Raises:
        UserError: If there is no such file, or it is damaged or holds other things.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise UserError(
            f"backbone.weights={path} is no file; give one, timm:TAG, or null for fresh weights."
        )
    try:
        if path.suffix == ".safetensors":
            return _sound(load_file(path), path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE's own options; no code
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"backbone.weights={path} is damaged: {str(error)[:500]}.") from None
    except Exception as error:  # a bad pickle can raise anything
        reason = type(error).__name__
        raise UserError(
            f"backbone.weights={path} is damaged or holds more than weights ({reason}): such a "
            "file could run any code and is not opened; if trusted, convert it to .safetensors."
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise UserError(f"backbone.weights={path} holds a {kind}; it must hold named weights.")
    return _sound({str(k): v for k, v in content.items() if isinstance(v, Tensor)}, path)


def _sound(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors, if they are plain ones whose values are all in the file.

    Raises:
        UserError: If one is sparse, quantized or without values, or repeats a few values by strides
            (a small file could then fill the memory), or has values that are not finite.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if plain and not tensor.is_quantized:
            held = tensor.untyped_storage().nbytes()
            # 8-bit floats have no isfinite
            values = tensor.float() if tensor.is_floating_point() else tensor
            if tensor.numel() * tensor.itemsize <= held and values.isfinite().all():
                continue
        raise UserError(
            f"backbone.weights={path}: {name[:200]} is no plain tensor of finite values; the file "
            "is damaged or holds more than weights."
        )
    return tensors


def read_timm(spec: str, timm_model: str | None) -> dict[str, Tensor]:
    """Return timm's pretrained weights of a model, downloaded unless they are in its cache.

    Raises:
        UserError: If there are none by this tag, or they cannot be fetched.
    """
    if timm_model is None:
        raise UserError(
            f"backbone.weights={spec} needs backbone.name: timm, whose model it belongs to; for "
            "backbone.name: vit give a file."
        )
    tag = spec.removeprefix(TIMM)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{timm_model}.*")]
    if tag not in ("default", *tags):
        raise UserError(
            f"backbone.weights={spec}: {timm_model} has no such weights; choose one of "
            f"{', '.join(f'{TIMM}{name}' for name in ('default', *tags))}."
        )
    try:
        name = timm_model if tag == "default" else f"{timm_model}.{tag}"
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of the network, the hub's client or the file
        raise UserError(
            f"backbone.weights={spec} of {timm_model} cannot be fetched ({type(error).__name__}); "
            "download its model.safetensors where there is a network, and give that file."
        ) from None
    return state
