"""Recipe ``from_pretrained``, rehearsed: its model by its real name, small, with drawn weights."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small_models import scramble
from support import REPO

from pipeline.overlay import read
from semimae.data.store import Prepared
from semimae.inference.timm_folder import load_timm, write_timm
from semimae.ingest.choose import split_for
from semimae.ingest.prepare import prepare
from semimae.options.grid import GridPoint
from semimae.options.params import Params
from semimae.training import fit

RECIPE = read(REPO / "recipes/from_pretrained.yaml")
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}  # no file has patches of another size


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in two classes, and weights as timm would download them."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for number in range(48):
        path = folder / "train" / ("dark" if number % 2 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colors = pixels.integers(0, 100, (40, 40, 3)) + (100 if number % 2 == 0 else 0)
        Image.fromarray(colors.astype(np.uint8)).save(path)
    model = timm.create_model("vit_small_patch16_dinov3", img_size=224, **SMALL)
    scramble(model)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def rehearsal(images: Path) -> Params:
    """The recipe with its architecture in small, on small images, for two steps."""
    tree = RECIPE.model_dump()
    tree["data"] |= {"image_size": 48, "test_fraction": 0.25, "val_fraction": 0.2, "workers": 1}
    tree["backbone"] |= SMALL | {"weights": "model.safetensors"}
    tree["mim"] |= {"decoder_dim": 8, "decoder_heads": 2, "decoder_depth": 1}
    tree["optim"] |= {"warmup_steps": 1}
    tree["fine_tune"]["optim"] |= {"warmup_steps": 1}
    tree["train"] |= {"steps": 2, "batch_size": 4, "device": "cpu", "precision": "fp32"}
    tree["train"] |= {"threads": 1}
    tree["self_training"] |= {"teacher_steps": 2}
    tree["label_fraction"] = 0.5
    tree["ablation"] |= {"label_fraction": [0.5], "seed": [0]}
    return Params.model_validate(tree)


def test_every_setting_of_its_grid_trains_from_the_weights(images: Path, tmp_path: Path) -> None:
    params = rehearsal(images)
    prepare("imagefolder", params.data, images, tmp_path / "prepared")
    prepared = Prepared.read(tmp_path / "prepared", images)
    grid: dict[GridPoint, object] = {points[0]: cell for cell, points in params.grid().items()}
    assert len(grid) == 4 * 3
    chosen = [p for p in grid if p.variant == "plain" or p.method == "semi_mae"]
    for point in chosen:
        cell = params.variant(point.variant).cell(*point[:-1]).with_weights_hash(images)
        split = split_for(cell, prepared, tmp_path)
        trained = fit(cell, prepared, split, params.train, tmp_path / point.folder)
        start = trained.info.start
        assert start is not None
        assert (start.layout, start.num_backbone) == ("timm", len(_tensors(trained.model)))
        assert start.missing[:2] == ("backbone.vit.head.bias", "backbone.vit.head.weight")
        if point.variant == "plain":  # LoRA: merged, it leaves as timm's own model
            folder = tmp_path / f"timm-{point.method}"
            folder.mkdir()
            write_timm(trained, folder)
            pictures = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
            theirs, ours = load_timm(folder)(pictures), trained.model(pictures)
            scale = trained.info.temperature or 1.0
            torch.testing.assert_close(theirs, ours.detach() / scale, rtol=1e-4, atol=1e-4)


def _tensors(model: torch.nn.Module) -> list[str]:
    names = [name for name in model.state_dict() if name.startswith("backbone.")]
    return [name for name in names if ".head." not in name]
