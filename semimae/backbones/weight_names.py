"""Names of published weights: where in a file a model lies, and what timm calls its tensors."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]


class Layout(NamedTuple):
    """How one owner names a Vision Transformer."""

    owner: str
    anchor: str  # its first layer, by which it is found below any prefix
    rules: Rules = ()  # regular expressions and what takes their place, one after the other


_OWN = Layout(
    "timm",
    "patch_embed.proj.weight",
    (
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 saves blocks in chunks
        (r"^(register|storage)_tokens$", "reg_token"),  # DINOv2, DINOv3
        (r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1."),
        (r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2."),
    ),
)
LAYOUTS = (
    _OWN,
    Layout(
        "Hugging Face",
        "embeddings.patch_embeddings.projection.weight",
        hugging_face := (
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.register_tokens$", "reg_token"),
            (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
            (r"^embeddings\.", ""),
            (r"^(encoder\.)?layer\.", "blocks."),
            (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
            (r"\.attention\.q_proj\.", ".attn.query."),
            (r"\.attention\.k_proj\.", ".attn.key."),
            (r"\.attention\.v_proj\.", ".attn.value."),
            (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
            (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
            (r"\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
            (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
            (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "norm."),
        ),
    ),
    Layout("Hugging Face", "embeddings.patch_embeddings.weight", hugging_face),
    Layout(
        "torchvision",
        "conv_proj.weight",
        (
            (r"^class_token$", "cls_token"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.layers\.encoder_layer_", "blocks."),
            (r"^encoder\.ln\.", "norm."),
            (r"\.ln_(\d)\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
            (r"^heads\.head\.", "head."),
        ),
    ),
    Layout(
        "MMPretrain",
        "patch_embed.projection.weight",
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.", "blocks."),
            (r"^ln1\.", "norm."),
            (r"^pre_norm\.", "norm_pre."),
            (r"\.ln(\d)\.", r".norm\1."),
            (r"\.(attn|ffn)\.gamma(\d)\.weight$", r".ls\2.gamma"),
            (r"\.ffn\.(layers\.0\.0|w12)\.", ".mlp.fc1."),
            (r"\.ffn\.(layers\.1|w3)\.", ".mlp.fc2."),
        ),
    ),
    Layout("OpenAI's CLIP", "visual.conv1.weight", ((r"^(?!visual\.).*", ""),)),  # timm knows it
)
# What is named so may stay behind: it does not take part in the features.
_HEADS = ("head", "heads", "head_dist", "fc", "classifier", "lm_head", "pooler", "pre_logits")
_TOKENS = ("dist_token", "mask_token")
# Constants, and DINOv3's norm of local crops, which pretraining alone runs.
_CONSTANTS = re.compile(r"^rope_embed\.|^local_cls_norm\.|\.qkv\.bias_mask$")
_AVERAGES = ("ema", "teacher", "momentum", "target")
_OUR_BACKBONE = "backbone.vit."


class Part(NamedTuple):
    """A model inside a file: the names below a prefix."""

    table: str  # path of the mapping that holds it, such as "teacher"
    prefix: str  # what its names begin with, such as "backbone."
    layout: Layout

    @property
    def label(self) -> str:
        """Its name for people, empty if the file holds nothing else."""
        return ".".join(filter(None, [self.table, self.prefix.rstrip(".")]))


def parts_of(tables: Mapping[str, State], layouts: Iterable[Layout]) -> list[Part]:
    """Return every model that a file's mappings may hold: whatever lies in front of an anchor."""
    return [
        Part(path, name.removesuffix(layout.anchor), layout)
        for path, table in tables.items()
        for layout in layouts
        for name in table
        if name == layout.anchor or name.endswith(f".{layout.anchor}")
    ]


def averages_first(part: Part) -> tuple[bool, str]:
    """Order parts: moving averages and teachers first, which is what their authors evaluate."""
    return not any(word in part.label for word in _AVERAGES), part.label


def encoder_of(part: Part, table: State) -> State:
    """Return a part's tensors under timm's names, without those of a MIM branch."""
    made: State = {}
    for name, tensor in table.items():
        own = name.removeprefix(part.prefix)
        if not name.startswith(part.prefix) or _is_of_branch(own):
            continue
        for pattern, replacement in part.layout.rules:
            own = re.sub(pattern, replacement, own)
        mask = table.get(f"{name}_mask")  # DINOv3's, 0 for the keys
        if own and not _CONSTANTS.search(own):
            made[own] = tensor if mask is None or mask.shape != tensor.shape else tensor * mask
    return _joined(made)


def branch_of(part: Part, table: State) -> State:
    """Return a MIM branch's tensors under our names: those beside the part, and MAE's own."""
    made = {}
    root = part.prefix.removesuffix(_OUR_BACKBONE)
    for name, tensor in table.items():
        if root != part.prefix and name.startswith(f"{root}mim."):
            made[name.removeprefix(root)] = tensor
        elif name.startswith(part.prefix) and _is_of_branch(name.removeprefix(part.prefix)):
            made[f"mim.{name.removeprefix(part.prefix)}"] = tensor
    return made


def stays_behind(name: str) -> bool:
    """Tell whether a tensor may be left out: a head, a distillation or a mask token, a counter."""
    if name.endswith("num_batches_tracked"):
        return True
    return name in _TOKENS or name.startswith(tuple(f"{head}." for head in _HEADS))


def _is_of_branch(name: str) -> bool:
    return name.startswith("decoder_") or name == "mask_token"


def _joined(state: State) -> State:
    """Lay query, key and value one after the other, as timm has them; name a plain MLP's layer."""
    made = dict(state)
    gated = any(name.endswith(".fc1_g.weight") for name in state)
    for name in state:
        if ".fc1_x." in name and not gated:
            made[name.replace(".fc1_x.", ".fc1.")] = made.pop(name)
        if ".attn.query." not in name:
            continue
        block, kind = name.split(".query.")
        key, value = f"{block}.key.{kind}", f"{block}.value.{kind}"
        if value not in state or (kind == "weight" and key not in state):
            continue
        query = made.pop(name)
        keys = made.pop(key) if key in made else torch.zeros_like(query)  # no bias is one of 0
        made[f"{block}.qkv.{kind}"] = torch.cat([query, keys, made.pop(value)])
    return made


def fit_names(state: State, wanted: Iterable[str]) -> State:
    """Rename what timm's classes name differently; nothing that the model computes changes.

    A bias that is zero can be left out.
    """
    wanted, made = set(wanted), dict(state)
    for name in state:
        other = re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", name)
        if other == name:
            other = re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name)
        if name not in wanted and other in wanted:
            made[other] = made.pop(name)
        if name.endswith(".qkv.bias") and name not in wanted and state[name].ndim == 1:
            block = name.removesuffix("qkv.bias")
            query, key, value = state[name].tensor_split(3)
            if f"{block}q_bias" in wanted and not key.any():
                made |= {f"{block}q_bias": query, f"{block}v_bias": value}
                del made[name]
            elif not state[name].any():
                del made[name]
    return made
