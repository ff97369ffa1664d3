"""Reading files of weights, without running code that may be in them."""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg
from torch import Tensor

from semimae.files import file_hash
from semimae.types import UserError

TIMM, HUB = "timm:", "hf:"
Table = tuple[str, dict[str, Tensor]]
_DEEPEST = 4  # mappings inside mappings


class Source(NamedTuple):
    """Weights of others, and what is known of them."""

    tables: dict[str, dict[str, Tensor]]
    sha256: str | None = None  # of the file
    license: str | None = None


def read_source(spec: str, timm_model: str | None, root: Path) -> Source:
    """Return what ``backbone.weights`` names.

    Args:
        spec: ``timm:TAG``, ``hf:ORG/NAME`` or a file.
        timm_model: The name in timm that a tag belongs to.
        root: What a relative path is relative to.

    Raises:
        UserError: If it cannot be had, or holds other things than weights.
    """
    if spec.startswith(TIMM):
        return read_timm(spec, timm_model)
    if spec.startswith(HUB):
        return read_hub(spec)
    path = root / spec
    tables = read_file(path)
    return Source(tables, file_hash(path))


def read_file(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a file, by the path of the mapping that holds them.

    No code in it is run: pickles are opened with weights_only. A checkpoint also holds the state of
    an optimizer and more, so that ``check_sound`` is left to who has chosen a mapping.

    Raises:
        UserError: If there is no such file, or it is damaged or holds other things.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise UserError(
            f"backbone.weights={path} is not a file; give a file, timm:TAG, hf:ORG/NAME, or null "
            "for random initialization."
        )
    try:
        if path.suffix == ".safetensors":
            return {"": load_file(path)}
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
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise UserError(f"backbone.weights={path} holds a {kind}; it must hold named weights.")
    return dict(_tables(content))


def _tables(content: Mapping[Any, Any], place: str = "", depth: int = 0) -> Iterator[Table]:
    """Yield each mapping that holds tensors, also inside others, by the keys that lead to it."""
    table = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if table:
        yield place, table
    for key, value in content.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:  # which may hold itself
            yield from _tables(value, f"{place}.{key}".lstrip("."), depth + 1)


def check_sound(tensors: Mapping[str, Tensor], spec: str) -> None:
    """Check that tensors are plain ones, whose values are all in the file and finite.

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
            f"backbone.weights={spec}: {name[:200]} is not a plain tensor of finite values; the "
            "file is damaged or holds more than weights."
        )


def read_timm(spec: str, timm_model: str | None) -> Source:
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
        state = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of the network, the hub's client or the file
        raise UserError(
            f"backbone.weights={spec} of {timm_model} cannot be fetched ({type(error).__name__}); "
            "download its model.safetensors where there is a network, and give that file."
        ) from None
    return Source({"": dict(state)}, license=license_of(timm_model, spec))


def license_of(timm_model: str, spec: str) -> str | None:
    """Return the license that timm states of its weights ``timm:TAG``."""
    tag = spec.removeprefix(TIMM)
    name = timm_model if tag == "default" else f"{timm_model}.{tag}"
    known = get_pretrained_cfg(name, allow_unregistered=True)
    return known.license if known else None


def read_hub(spec: str) -> Source:
    """Return a model of the Hugging Face Hub, downloaded unless it is in the hub's cache.

    Args:
        spec: ``hf:ORG/NAME``, or ``hf:ORG/NAME@REVISION`` to hold on to one.

    Raises:
        UserError: If it cannot be fetched, or is not in safetensors files.
    """
    name, _, revision = spec.removeprefix(HUB).partition("@")

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision or None))

    try:
        try:
            paths = [fetch("model.safetensors")]
        except EntryNotFoundError:  # a large model is in several files, which an index lists
            index = json.loads(fetch("model.safetensors.index.json").read_text())
            paths = [fetch(file) for file in sorted(set(index["weight_map"].values()))]
    except Exception as error:  # of the name, the network, the hub, its client or the index
        raise UserError(
            f"backbone.weights={spec} cannot be fetched ({type(error).__name__}); check the name "
            "and whether its license has to be accepted first, or download its model.safetensors "
            "where there is a network, and give that file."
        ) from None
    try:
        license = ModelCard.load(fetch("README.md")).data.get("license")
    except Exception:  # no card, or none that can be read: the license is not known
        license = None
    tensors = {name: tensor for path in paths for name, tensor in read_file(path)[""].items()}
    return Source({"": tensors}, _hash_of(paths), license if isinstance(license, str) else None)


def _hash_of(paths: list[Path]) -> str:
    """Return the hash of a file; of several, the hash of their hashes."""
    hashes = [file_hash(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
