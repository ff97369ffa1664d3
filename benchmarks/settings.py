"""What is measured: model, image size and batch, as cells over recipes/cifar10.yaml."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.overlay import read
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.cell import Cell
from semimae.options.params import Params

RECIPE = Path(__file__).parents[1] / "recipes" / "cifar10.yaml"
CLASSES, IMAGES = 4, 96  # of the synthetic data set


class Setting(NamedTuple):
    """A model at an image size."""

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder: tuple[int, int, int]  # width, depth, heads
    batch: dict[str, tuple[int, int]]  # device -> labeled images, unlabeled ones per labeled
    file_size: tuple[int, int]  # of an image on disk, pixels


SETTINGS = {
    "ViT-Ti/4@32": Setting(
        32, 4, 192, 12, 3, (128, 2, 4), {"cpu": (8, 7), "cuda": (64, 7)}, (32, 32)
    ),
    "ViT-S/16@224": Setting(
        224, 16, 384, 12, 6, (256, 4, 8), {"cpu": (1, 3), "cuda": (32, 5)}, (500, 375)
    ),
    "ViT-B/16@224": Setting(
        224, 16, 768, 12, 12, (512, 4, 16), {"cpu": (1, 1), "cuda": (16, 5)}, (500, 375)
    ),
    "tiny": Setting(16, 4, 16, 2, 2, (8, 1, 2), {"cpu": (2, 2), "cuda": (2, 2)}, (16, 16)),
}


def make_params(setting: Setting, device: str, precision: str, **changes: object) -> Params:
    """Return the params of a setting; changes are named ``section__field``."""
    tree: dict[str, Any] = read(RECIPE).model_dump()
    width, depth, heads = setting.decoder
    batch, mu = setting.batch[device]
    tree["data"] |= {
        "image_size": setting.image_size,
        "crop": "pad" if setting.image_size <= 96 else "resized",
    }
    tree["backbone"] |= {
        "patch_size": setting.patch_size,
        "embed_dim": setting.embed_dim,
        "depth": setting.depth,
        "num_heads": setting.num_heads,
    }
    tree["mim"] |= {"decoder_dim": width, "decoder_depth": depth, "decoder_heads": heads}
    tree["train"] |= {"batch_size": batch, "mu": mu, "device": device, "precision": precision}
    tree["self_training"]["teacher_steps"] = tree["train"]["steps"]
    tree |= {"dataset": "imagefolder", "label_fraction": 0.5}
    for key, value in changes.items():
        section, _, field = key.rpartition("__")
        (tree[section] if section else tree)[field] = value
    return Params.model_validate(tree)


def make_cell(setting: Setting, device: str, precision: str, **changes: object) -> Cell:
    """Return the cell of a setting; changes are named ``section__field``."""
    return make_params(setting, device, precision, **changes).cell()


def make_images(setting: Setting, folder: Path) -> None:
    """Write a folder of JPEG files per class: smooth colors with edges and some noise."""
    draws = np.random.default_rng(0)
    width, height = setting.file_size
    for index in range(IMAGES):
        coarse = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = draws.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        path = folder / "train" / f"class{index % CLASSES}" / f"{index:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=92)


def make_data(setting: Setting, folder: Path) -> tuple[Prepared, Split]:
    """Write and prepare synthetic images, and label half of them."""
    config = make_params(setting, "cpu", "fp32").data
    make_images(setting, folder)
    prepare("imagefolder", config, folder, folder / "prepared")
    prepared = Prepared.read(folder / "prepared", folder)
    split = make_split(
        prepared, seed=0, label_fraction=0.5, val_fraction=config.val_fraction, include_labeled=True
    )
    return prepared, split
