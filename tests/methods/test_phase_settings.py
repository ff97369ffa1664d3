"""Phases with settings of their own: what they have, what they share, and that they continue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import changed_params, small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import TrainState
from semimae.engine.phases import fit_phases, phases
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.types import Interrupted, UserError

MakeCell = Callable[..., Cell]
STEPS = {"start__mae_steps": 4, "start__supervised_steps": 4, "train__steps": 3}
# MAE's pretraining and Semi-ViT's fine-tuning, in small.
MAE: dict[str, dict[str, Any]] = {
    "optim": {"lr": 6e-4, "betas": [0.9, 0.95], "layer_decay": 1.0, "grad_clip": None},
    "train": {"batch_size": 5, "mu": 3, "ema_decay": 0.5},
    "data": {"crop": "resized", "crop_min_scale": 0.5},
}
SUPERVISED: dict[str, dict[str, Any]] = {
    "optim": {"weight_decay": 0.3, "warmup_steps": 2},
    "train": {"batch_size": 6, "drop_path": 0.2},
    "labeled": {"view": "strong", "mixup": 0.8, "smoothing": 0.1},
    "data": {"erasing": 0.25},
}


def test_each_phase_has_what_is_its_own_and_the_rest_of_the_run(small_cell: MakeCell) -> None:
    own = {"start__mae": MAE, "start__supervised": SUPERVISED}
    mae, supervised, last = phases(small_cell("semi_vit", optim__layer_decay=0.75, **STEPS, **own))
    plain = phases(small_cell("semi_vit", optim__layer_decay=0.75, **STEPS))
    assert mae.optim.betas == (0.9, 0.95)
    assert (mae.optim.layer_decay, mae.optim.grad_clip) == (1.0, None)
    assert mae.optim.weight_decay == plain[0].optim.weight_decay
    assert (mae.train.batch_size, mae.num_unlabeled, mae.train.ema_decay) == (5, 15, 0.5)
    assert (mae.data.crop, mae.data.erasing) == ("resized", 0.0)
    assert (supervised.optim.weight_decay, supervised.optim.layer_decay) == (0.3, 0.75)
    assert (supervised.train.batch_size, supervised.train.drop_path) == (6, 0.2)
    assert supervised.labeled is not None
    assert (supervised.labeled.view, supervised.labeled.mixup) == ("strong", 0.8)
    assert (supervised.data.crop, supervised.data.erasing) == ("pad", 0.25)
    assert last == plain[2]
    mae, supervised = phases(small_cell("mae_finetune", optim__layer_decay=0.75, **STEPS, **own))
    assert mae.optim.layer_decay == 1.0
    assert supervised == phases(small_cell("mae_finetune", optim__layer_decay=0.75, **STEPS))[1]


def test_a_phase_trains_as_in_a_run_whose_own_settings_these_are(small_cell: MakeCell) -> None:
    """It is the same cell, bit for bit, and shares its finished weights."""
    of_it = {
        f"{section}__{field}": value
        for section, fields in MAE.items()
        for field, value in fields.items()
    }
    run = small_cell("semi_vit", **STEPS, **of_it)
    assert phases(small_cell("semi_vit", start__mae=MAE, **STEPS))[0] == phases(run)[0]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_its_own_is_no_other_cell(method: str) -> None:
    plain = changed_params(method=method, **STEPS)
    same: dict[str, Any] = {
        "optim": {"lr": plain.optim.lr, "betas": [*plain.optim.betas]},
        "train": {"batch_size": plain.train.batch_size},
        "data": {},
    }
    text = plain.cell().model_dump_json()
    assert '"mae":{' not in text
    assert changed_params(method=method, start__mae=same, **STEPS).cell().model_dump_json() == text
    assert changed_params(method=method, start__supervised=same, **STEPS).cell() == plain.cell()


def test_what_no_step_reads_is_no_other_cell(small_cell: MakeCell) -> None:
    none = STEPS | {"start__mae_steps": 0}
    assert small_cell("semi_vit", **none, start__mae=MAE) == small_cell("semi_vit", **none)
    other = small_cell("mae_finetune", **STEPS, start__supervised=SUPERVISED)
    assert other == small_cell("mae_finetune", **STEPS)  # its last phase is the run's
    own = small_cell("semi_vit", **STEPS, start__mae=MAE)
    assert Cell.model_validate_json(own.model_dump_json()) == own
    assert len({own, small_cell("semi_vit", **STEPS)}) == 2


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"optim": {"lrr": 1.0}}, "start.mae.optim.lrr: unknown key (did you mean 'lr'?); allowed"),
        ({"optin": {}}, "start.mae.optin: unknown key (did you mean 'optim'?); allowed: data, opt"),
        ({"train": {"drop_path": 0.1}}, "start.mae.train.drop_path: unknown key; allowed: accum"),
        ({"optim": {"lr": 11}}, "start.mae.optim.lr: got 11; it must be less than or equal to 10"),
        ({"optim": {"lr": None}}, "start.mae.optim.lr: got None; it must be a valid number"),
        ({"optim": {"min_lr": 1.0}}, "start.mae.optim.min_lr=1 is above lr=0.002; lower min_lr"),
        (
            {"optim": {"warmup_steps": 4}},
            "start.mae.optim.warmup_steps=4 must be less than start.mae_steps=4: the learning rate "
            "would never reach start.mae.optim.lr",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(own: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        changed_params(method="mae_finetune", start__mae=own, **STEPS).cell()
    assert message in str(error.value)


@pytest.mark.parametrize("stop_at", [2, 6])
def test_a_run_stopped_in_such_a_phase_ends_with_the_same_weights(
    stop_at: int, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = small_cell("semi_vit", start__mae=MAE, start__supervised=SUPERVISED, **STEPS)

    def run(folder: Path, asked_at: int = 0) -> tuple[TrainState, list[dict[str, Any]]]:
        asked = iter(range(1, 100))
        return fit_phases(
            cell,
            digits,
            digits_split,
            small_rhythm(train__save_every=2),
            resume=folder / "resume",
            finished=lambda phase: folder,
            on_row=lambda kind, row: None,
            should_stop=lambda: next(asked) == asked_at,
        )

    whole, costs = run(tmp_path / "whole")
    assert [(cost["method"], cost["images"]) for cost in costs] == [
        ("mae", 4 * (5 + 15)),
        ("supervised", 4 * 6),
    ]
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop_at)
    again, _ = run(tmp_path / "parts")
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, again.ema.state_dict()[name]), name
