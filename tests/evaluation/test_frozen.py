"""The starting weights as they are, scored without any training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_models import scramble
from support import changed_params

from pipeline import linear_probe
from pipeline.stage import Inputs
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.evaluation.frozen import frozen_key
from semimae.evaluation.probe import probe
from semimae.ingest.choose import make_split
from semimae.model import model_of
from semimae.options.cell import Cell

CONFIG = changed_params().linear_probe


@pytest.fixture
def start(digits: Prepared, tmp_path: Path) -> Prepared:
    """The digits, with starting weights in their folder."""
    model = model_of(changed_params(method="supervised").cell(), digits)
    scramble(model)
    save_file(model.state_dict(), tmp_path / "start.safetensors")
    return dataclasses.replace(digits, root=tmp_path)


def cell_of(method: str, **changes: object) -> Cell:
    changes = {"backbone__weights": "start.safetensors"} | changes
    return changed_params(method=method, **changes).cell()


def test_they_are_scored_once_for_all_cells_that_share_them(
    start: Prepared, digits_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell_of("semi_mae", train__steps=9), cell_of("supervised", backbone__tuning="lora")]
    results = []
    for cell in cells:
        inputs = Inputs(cell, changed_params(), start, digits_split)
        results.append(linear_probe._frozen(inputs, tmp_path, "code"))
        monkeypatch.setattr("semimae.evaluation.frozen.model_of", None)  # needed no second time
    (scores, arrays), (again, _) = results
    assert scores == again
    assert scores["seconds"] > 0
    assert scores["weights"] == "start.safetensors"
    expected = probe(model_of(cells[0], start), cells[0], start, digits_split, CONFIG)
    wanted = {k: expected.scores["protocols"][k] for k in ("linear_probe", "knn")}
    assert scores["protocols"] == wanted
    top1 = scores["protocols"]["linear_probe"]["top1"]["value"]
    right = arrays["frozen_predicted"] == expected.predictions["test_label"]
    assert right.mean() == pytest.approx(top1)
    assert ((arrays["frozen_confidence"] > 0.1) & (arrays["frozen_confidence"] <= 1)).all()
    assert arrays["frozen_predicted"].dtype == np.int32
    assert torch.get_num_threads() == 1


def test_other_labels_images_or_weights_are_scored_anew(
    start: Prepared, digits_split: Split
) -> None:
    def key(cell: Cell, split: Split = digits_split) -> str:
        return frozen_key(cell, start, split, CONFIG, "code")

    first = cell_of("fixmatch")
    split = make_split(start, seed=1, num_labels=40, val_fraction=0.15, include_labeled=True)
    makers: list[Callable[[], str]] = [
        lambda: key(first),
        lambda: key(first, split),
        lambda: key(cell_of("fixmatch", backbone__pool="avg")),
        lambda: key(cell_of("fixmatch", data__mean=[0.5], data__std=[0.5])),
        lambda: key(first.model_copy(update={"weights_sha256": "0" * 64})),
        lambda: frozen_key(first, start, digits_split, CONFIG, "other code"),
    ]
    assert len({make() for make in makers}) == len(makers)
    assert key(first) == key(cell_of("mae", seed=3, optim__lr=1e-3, backbone__tuning="head"))
