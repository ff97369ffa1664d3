"""ViT-Ti with everything that regularizes, on photographs: the loss stays finite."""

import math
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from support import REGULARIZED, REPO, changed_params, small_rhythm

from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints
from semimae.engine.fit import fit
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.cell import Cell

PHOTOS = REPO.parent / "shared" / "data" / "photos5.tar.gz"
STEPS = int(os.environ.get("SEMIMAE_PHOTO_STEPS", "8"))  # 100 take minutes
SIDE = 96
TINY = {
    "dataset": "imagefolder",
    "num_labels": 60,
    "data__image_size": SIDE,
    "data__channels": 3,
    "data__pack_max_side": 0,
    "backbone__patch_size": 16,
    "backbone__embed_dim": 192,
    "backbone__depth": 12,
    "backbone__num_heads": 3,
    "mim__decoder_dim": 64,
    "mim__decoder_heads": 4,
    "pseudo_label__mixup": True,
    "pseudo_label__threshold": 0.2,
    "optim__lr": 5e-4,
    "train__steps": STEPS,
    "train__batch_size": 8,
    "train__mu": 2,
}


def regions(root: Path) -> None:
    """Write parts of scikit-learn's two photographs as two classes."""
    rng = np.random.default_rng(0)
    for label, photo in enumerate(load_sample_images().images):
        for split, count in (("train", 60), ("test", 10)):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i, (y, x) in enumerate(rng.integers(0, 300, (count, 2)).tolist()):
                Image.fromarray(photo[y : y + 120, x : x + 120]).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of five classes, or where they are absent, regions of two photographs."""
    folder: Path = tmp_path_factory.mktemp("photographs")
    root = folder / "root"
    if PHOTOS.is_file():
        with tarfile.open(PHOTOS) as archive:
            archive.extractall(folder, filter="data")
        (folder / "photos5").rename(root)
    else:
        regions(root)
    prepare("imagefolder", changed_params(**TINY).data, root, folder / "prepared")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_stays_finite(
    precision: str,
    photographs: Path,
    small_cell: Callable[..., Cell],
    tmp_path: Path,
) -> None:
    cell = small_cell("semi_mae", **REGULARIZED | TINY | {"train__precision": precision})
    prepared = Prepared.read(photographs / "prepared", photographs / "root")
    split = make_split(prepared, seed=0, num_labels=60, val_fraction=0.1, include_labeled=True)
    state = fit(
        cell,
        prepared,
        split,
        small_rhythm(train__log_every=2, train__eval_every=STEPS),
        checkpoints=Checkpoints(tmp_path),
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
    )
    assert state.step == STEPS
    losses = [value for row in state.history for name, value in row.items() if "loss/" in name]
    assert len(losses) >= STEPS
    assert all(map(math.isfinite, losses))
    assert not any("bad_steps" in row for row in state.history)
    assert math.isfinite(state.validation[-1]["val/loss"])
