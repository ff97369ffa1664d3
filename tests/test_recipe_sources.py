"""The ImageNet recipes, point by point: what a source has, and what their headers say of the rest.

``SEMI_VIT`` and ``SEMIFORMER`` are what the published commands and their defaults amount to:
FINETUNE.md, SEMIVIT.md, main_finetune.py and main_semi.py of amazon-science/semi-vit, and
script/submitit_Semiformer_1:7_600Ech_8gpus.sh and semi_main_concat_evalVersion.py of
wengzejia1/Semiformer. Learning rates are base rate x batch / 256.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from support import REPO

from pipeline.overlay import read
from pipeline.recipe import Recipe
from semimae.engine.phases import phases
from semimae.options.cell import Cell

RECIPES = sorted((REPO / "recipes").glob("imagenet_*.yaml"))
COMMON = {
    "data.image_size": 224,
    "data.crop_min_scale": 0.08,  # timm's transform for training
    "data.hflip": True,
    "data.color_jitter": 0.4,
    "data.randaugment_ops": 2,  # rand-m9-mstd0.5-inc1, on a scale that ends at 10
    "data.randaugment_magnitude": round(9 / 10 * 30),
    "data.randaugment_magnitude_std": 0.5 / 10 * 30,
    "data.randaugment_probability": 0.5,
    "data.cutout": 0.0,
    "data.erasing": 0.25,
    "data.erasing_fill": "noise",
    "labeled.view": "strong",
    "labeled.view_probability": 1.0,
    "labeled.smoothing": 0.1,
    "backbone.patch_size": 16,
    "backbone.depth": 12,
    "train.drop_path": 0.1,
    "optim.betas": (0.9, 0.999),
    "optim.weight_decay": 0.05,
    "optim.grad_clip": None,
}
MIXED = {
    "labeled.mixup": 0.8,
    "labeled.cutmix": 1.0,
    "labeled.mix_probability": 1.0,
    "labeled.switch_probability": 0.5,
}
NOT_MIXED = {"labeled.mixup": 0.0, "labeled.cutmix": 0.0}
SEMI_VIT = COMMON | {
    "data.include_labeled": False,
    "backbone.pool": "avg",
    "optim.min_lr": 1e-6,
    "optim.lr": 1e-3 * 8 * 16 / 256,
    "train.batch_size": 8 * 16,
    "train.mu": 5,
    "train.ema_decay": 0.9999,
    "train.steps": 178_200,  # 100 epochs of 90% of the images; their 5 epochs of warm-up
    "optim.warmup_steps": 8_900,
    "optim.layer_decay": 0.75,
    "options.pseudo_label.threshold": 0.5,
    "options.pseudo_label.lambda_u": 5.0,
    "options.pseudo_label.lambda_ramp": 0.0,
    "options.pseudo_label.mixup": True,
    "options.pseudo_label.teacher": "ema",
    "options.pseudo_label.rule": "fixed",
}
UNREGULARIZED = NOT_MIXED | {"data.erasing": 0.0, "train.drop_path": 0.0}
TUNED = {  # 100 epochs of 10% with batches of 8 x 64, no average
    "train.batch_size": 8 * 64,
    "train.steps": 25_000,
    "train.ema_decay": 0.0,
    "optim.lr": 2.5e-4 * 8 * 64 / 256,
    "optim.layer_decay": 0.65,
    "optim.warmup_steps": 1_250,
}
SCRATCH = {  # 500 epochs of 10% with batches of 8 x 128, with an average
    "train.batch_size": 8 * 128,
    "train.steps": 62_600,
    "train.ema_decay": 0.9999,
    "optim.lr": 1e-4 * 8 * 128 / 256,
    "optim.layer_decay": 1.0,
    "optim.warmup_steps": 6_250,
    "optim.betas": (0.9, 0.95),
    "optim.weight_decay": 0.3,
}
JOINT = {"train.batch_size": 8 * 16, "optim.warmup_steps": 50_000}  # of as many epochs
SEMIFORMER = (
    COMMON
    | NOT_MIXED
    | {
        "data.include_labeled": True,
        "backbone.embed_dim": 384,
        "backbone.pool": "token",
        "optim.lr": 1e-3,
        "optim.min_lr": 1e-5,
        "optim.layer_decay": 1.0,
        "optim.warmup_steps": 6_200,  # 5 epochs
        "train.batch_size": 8 * 13,
        "train.mu": 7,
        "train.ema_decay": 0.99996,
        "train.steps": 739_100,  # 600 epochs of labels
        "options.pseudo_label.threshold": 0.7,
        "options.pseudo_label.lambda_u": 4.0,
        "options.pseudo_label.lambda_ramp": 0.0,
        "options.pseudo_label.mixup": False,
    }
)
OF_PRETRAINED = SEMI_VIT | MIXED
ONE_PERCENT = (
    OF_PRETRAINED
    | UNREGULARIZED
    | {
        "options.pseudo_label.threshold": 0.6,
        "train.steps": 196_200,
        "optim.warmup_steps": 9_800,
    }
)
PUBLISHED = SEMI_VIT | MIXED | {"optim.layer_decay": 0.85, "backbone.pos_embed": "sincos"}
# Of which recipe, variant, method and phase the settings are, and those of its source.
CASES: list[tuple[str, str, str, int, dict[str, Any]]] = [
    ("10pct_vit_b_mae", "plain", "semi_vit", -1, OF_PRETRAINED),
    ("10pct_vit_b_mae", "plain", "semi_vit", 0, OF_PRETRAINED | TUNED),
    ("10pct_vit_b_mae", "plain", "semi_mae", -1, OF_PRETRAINED),
    ("10pct_vit_s_dino", "plain", "semi_vit", -1, OF_PRETRAINED),
    ("10pct_vit_s_dino", "plain", "semi_vit", 0, OF_PRETRAINED | TUNED),
    ("1pct_vit_b_mae", "plain", "semi_vit", -1, ONE_PERCENT),
    (
        "1pct_vit_b_mae",
        "plain",
        "semi_vit",
        0,
        ONE_PERCENT
        | TUNED
        | {"train.steps": 2_500, "optim.warmup_steps": 125, "optim.lr": 5e-5 * 8 * 64 / 256},
    ),
    ("10pct_vit_b", "published", "semi_vit", -1, PUBLISHED),
    ("10pct_vit_b", "published", "semi_vit", 0, PUBLISHED | SCRATCH),
    ("10pct_vit_b", "plain", "semi_mae", -1, PUBLISHED | SCRATCH | JOINT),
    ("10pct_vit_s", "published", "semi_vit", -1, PUBLISHED),
    ("10pct_vit_s", "published", "semi_vit", 0, PUBLISHED | SCRATCH),
    ("10pct_vit_s", "plain", "semi_mae", -1, SEMIFORMER),
    ("1pct_vit_s", "plain", "semi_mae", -1, SEMIFORMER),
]


def rows(path: Path) -> dict[str, list[str]]:
    """Return the table of deviations in a recipe's header: its other cells by its first one."""
    header = "\n".join(Recipe(path, path.read_text()).header)
    paragraph = re.split(r"\n(?=\S)", header.partition("\nDeviations: ")[2])[0]
    title, *lines = re.split(r"\n  (?=\S)", paragraph)
    assert title == "source | here | reason"
    cells = [[cell.strip() for cell in " ".join(line.split()).split("|")] for line in lines]
    found = {first.partition(": ")[0]: [first.partition(": ")[2], *rest] for first, *rest in cells}
    assert len(found) == len(lines)
    return found


def value(cell: Cell, key: str) -> Any:
    found: Any = cell
    for part in key.split("."):
        found = getattr(found, part, None)
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_row_names_source_value_and_reason(path: Path) -> None:
    table = rows(path)
    assert len(table) >= 4
    for name, cells in table.items():
        assert len(cells) == 3, name
        assert all(cells), name
    header = " ".join(Recipe(path, path.read_text()).header)
    assert "Published: " in header or "nothing is published" in header


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("10pct_vit_b", "73.5"),
        ("10pct_vit_b", "75.9"),
        ("10pct_vit_b_mae", "79.7"),
        ("10pct_vit_s", "70.9"),
        ("10pct_vit_s", "75.9"),
        ("10pct_vit_s_dino", "77.1"),
        ("1pct_vit_b_mae", "71.0"),
    ],
)
def test_the_header_names_the_published_number(name: str, target: str) -> None:
    path = REPO / f"recipes/imagenet_{name}.yaml"
    header = "\n".join(Recipe(path, path.read_text()).header)
    assert target in header.partition("\nPublished: ")[2].partition("\nDeviations:")[0]


@pytest.mark.parametrize(
    ("name", "variant", "method", "phase", "source"), CASES, ids=lambda value: str(value)[:20]
)
def test_what_differs_from_the_source_is_in_the_table(
    name: str, variant: str, method: str, phase: int, source: dict[str, Any]
) -> None:
    path = REPO / f"recipes/imagenet_{name}.yaml"
    table = rows(path)
    base = rows(REPO / "recipes/imagenet_10pct_vit_s.yaml") if name == "1pct_vit_s" else {}
    grid = read(path).grid()
    (cell,) = [
        cell
        for cell, points in grid.items()
        if cell.method == method and any(point.variant == variant for point in points)
    ]
    of_phase = phases(cell)[phase]
    for key, theirs in source.items():
        ours = value(of_phase, key)
        if key.startswith("options.") and ours is None:
            continue  # of a supervised phase
        if ours == (pytest.approx(theirs) if isinstance(theirs, float) else theirs):
            continue
        row = table.get(key.removeprefix("options."), base.get(key.removeprefix("options.")))
        assert row is not None, f"{key}: {ours}, not {theirs}"
        assert row[1] == str(ours), key
