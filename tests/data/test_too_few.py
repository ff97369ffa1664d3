"""Data sets with too few images for a promise to be kept, and those with just enough."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import data_config, in_memory

from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.types import UserError

Tree = Callable[..., Path]
TWO_CLASSES = [f"train/{c}/{i}.png" for c in "ab" for i in range(2)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png"], "fewer than 2 classes; add labeled images"),
        (["train/a/1.png", "train/a/2.png"], "fewer than 2 classes; add labeled images"),
        (["train/a/1.png", "train/b/1.png"], r"data\.test_fraction=0\.25 holds out 1 of 2 labeled"),
    ],
)
def test_too_few_images_are_refused(
    names: list[str], message: str, tree: Tree, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        prepare("imagefolder", data_config(), tree(*names), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_labels", [1, 4])
def test_fewer_labels_than_classes_and_more_than_images_are_refused(num_labels: int) -> None:
    prepared = in_memory([0, 1, 0, 1], ["train"] * 4)
    with pytest.raises(UserError, match=rf"num_labels={num_labels}; allowed: 2 .* to 3"):
        make_split(prepared, seed=0, num_labels=num_labels, val_fraction=0.2, include_labeled=True)


def test_no_set_is_empty(tree: Tree, tmp_path: Path) -> None:
    """The smallest data set that works: of each set there is one image at least."""
    config = data_config(test_fraction=1e-9, val_fraction=1e-9)
    prepare("imagefolder", config, tree(*TWO_CLASSES), tmp_path / "out")
    prepared = Prepared.read(tmp_path / "out")
    split = make_split(prepared, seed=0, num_labels=2, val_fraction=1e-9, include_labeled=False)
    assert (len(split.labeled), len(split.val), len(split.test(prepared))) == (2, 1, 1)
    assert split.num_unlabeled == 0
    assert len(np.unique(prepared.labels[list(split.labeled)])) == 2
