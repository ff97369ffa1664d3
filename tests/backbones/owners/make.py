"""Writes the files of this folder: small models of other libraries, and what these make of images.

transformers (with tokenizers and its 15 s import) and peft are too heavy for the tests, so that
they are asked once. Made with transformers 5.24.0, peft 0.21.2, timm 1.0.31 and torch 2.14.1:

    pip install transformers peft && python tests/backbones/owners/make.py
"""

import tempfile
from pathlib import Path

import timm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
)

HERE = Path(__file__).parent
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
DINOV3 = {**SIZES, "intermediate_size": 64, "num_register_tokens": 4}
OWNERS = {
    "hf_vit": ViTForImageClassification(ViTConfig(**SIZES, intermediate_size=32)),
    "hf_dinov2": Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)),
    "hf_dinov2_registers": Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SIZES, mlp_ratio=4, num_register_tokens=4)
    ),
    "hf_dinov3": DINOv3ViTModel(DINOv3ViTConfig(**DINOV3, query_bias=False, value_bias=False)),
    "hf_dinov3_bias": DINOv3ViTModel(DINOv3ViTConfig(**DINOV3)),
}


def scramble(model: nn.Module) -> None:
    """Draw all weights anew: what starts at zero or at one would hide mistakes."""
    source = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=source) * 0.3


@torch.no_grad()
def owner(name: str, model: nn.Module, images: Tensor) -> None:
    scramble(model)
    model.eval()
    body = getattr(model, "vit", model)
    features = body(pixel_values=images).last_hidden_state[:, 0].contiguous()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = load_file(f"{folder}/model.safetensors")
    tensors = {f"model.{key}": value for key, value in weights.items()}
    made = {"input.images": images, "expected.features": features}
    save_file(tensors | made, HERE / f"{name}.safetensors")


def lora(images: Tensor) -> None:
    """Train peft's LoRA for some steps with AdamW; keep where it began and where it ended."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2,
        num_classes=3,
    )  # fmt: skip
    scramble(model)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    targets = r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc1)"
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, modules_to_save=["head"])
    tuned = get_peft_model(model, config)
    factors = {
        key.removeprefix("base_model.model."): value.clone()
        for key, value in tuned.state_dict().items()
        if "lora_" in key
    }
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    labels = torch.arange(len(images)) % 3
    losses = []
    for _ in range(4):
        loss = functional.cross_entropy(tuned(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    merged = tuned.merge_and_unload().state_dict()
    save_file(
        {f"start.{key}": value for key, value in start.items()}
        | {f"factors.{key}": value for key, value in factors.items()}
        | {
            f"merged.{key}": value.contiguous()
            for key, value in merged.items()
            if "blocks" in key or "head" in key
        }
        | {"input.images": images, "expected.losses": torch.stack(losses)},
        HERE / "peft_lora.safetensors",
    )


if __name__ == "__main__":
    pictures = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for name, model in OWNERS.items():
        owner(name, model, pictures)
    torch.manual_seed(2)  # peft draws from the global generator
    lora(pictures)
