"""Runs with the most extreme options that are allowed: finite results, or one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from fuzz_cases import Fuzz
from hypothesis import strategies as st
from support import changed_params

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.phases import fit_phases
from semimae.options.method import METHODS
from semimae.types import UserError

pytestmark = pytest.mark.slow
OPTIONS: dict[str, list[Any]] = {
    "method": sorted(METHODS),
    "optim__lr": [1e-300, 1e-3, 10.0],
    "optim__weight_decay": [0.0, 10.0],
    "optim__betas": [[0.0, 0.0], [0.9, 0.999], [0.999999999, 0.0]],
    "optim__grad_clip": [1e-300, 1.0, 1e300, None],
    "optim__layer_decay": [1e-300, 1.0],
    "pseudo_label__threshold": [0.0, 0.11, 1.0],
    "pseudo_label__lambda_u": [0.0, 1000.0],
    "pseudo_label__momentum": [0.0, 0.999999999],
    "pseudo_label__alignment": ["none", "uniform", "labeled"],
    "pseudo_label__mixup": [False, True],
    "mim__lambda_mim": [0.0, 1000.0],
    "mim__weighting": ["fixed", "gradient"],
    "mim__gradient_ratio": [1e-300, 1.0, 100.0],
    "mim__weighting_every": [1, 10**9],
    "mim__weighting_momentum": [0.0, 0.999999999],
    "mim__target": ["pixels", "norm_pixels", "hog", "teacher_features"],
    "data__std": [[1e-6], [1.0]],
    "data__cutout": [0.0, 1.0],
    "data__randaugment_magnitude": [0, 30],
    "data__randaugment_magnitude_std": [0.0, 30.0, "uniform"],
    "data__randaugment_probability": [0.0, 0.5, 1.0],
    "data__color_jitter": [0.0, 1.0],
    "data__erasing": [0.0, 1.0],
    "data__erasing_fill": ["mean", "noise"],
    "labeled__view": ["weak", "strong"],
    "labeled__mixup": [0.0, 5e-324, 100.0],
    "labeled__cutmix": [0.0, 5e-324, 100.0],
    "labeled__mix_probability": [0.0, 1.0],
    "labeled__switch_probability": [0.0, 0.5, 1.0],
    "labeled__smoothing": [0.0, 0.999999999],
    "train__ema_decay": [0.0, 0.999999999],
    "train__ema_warmup": [False, True],
    "train__drop_path": [0.0, 0.5, 0.999999999],
    "train__precision": ["fp32", "bf16"],
    "train__max_bad_steps": [1, 10**9],
}


def test_any_extreme_run(fuzz: Fuzz, digits: Prepared, digits_split: Split, tmp_path: Path) -> None:
    ended = []

    def check(options: dict[str, Any]) -> None:
        folder = tmp_path / str(len(ended))
        short = {"train__steps": 4, "start__mae_steps": 2, "start__supervised_steps": 2}
        params = changed_params(**short, **options)
        try:
            state, _ = fit_phases(
                params.cell(),
                digits,
                digits_split,
                params.train,
                resume=folder / "resume",
                finished=lambda phase: folder / "finished",
                on_row=lambda kind, row: None,
                should_stop=lambda: False,
            )
        except UserError as error:
            ended.append(str(error))
            assert "lower optim.lr" in str(error)  # noqa: PT017
        else:
            ended.append("")
            json.dumps([state.history, state.validation], allow_nan=False)

    fuzz(st.fixed_dictionaries({k: st.sampled_from(v) for k, v in OPTIONS.items()}), check)
    assert "" in ended
