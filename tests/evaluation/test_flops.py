import pytest
import torch
from support import changed_params

from semimae.evaluation.flops import count_flops, step_flops, training_flops
from semimae.options.method import METHODS


def test_a_matrix_product_counts_two_per_multiplication() -> None:
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def encoder_flops(images: int, tokens: int, width: int, depth: int, mlp: float) -> int:
    """Forward, by the formula: projections 4 d^2, MLP 2 r d^2 per token, attention 2 t^2 d."""
    per_block = 2 * tokens * (4 + 2 * mlp) * width**2 + 4 * tokens**2 * width
    return round(images * depth * per_block)


@pytest.mark.parametrize(("pool", "trim"), [("avg", ["class_token"]), ("token", [])])
def test_a_supervised_step_is_the_textbook_formula(pool: str, trim: list[str]) -> None:
    params = changed_params(
        method="supervised", backbone__pool=pool, backbone__depth=4, train__trim=trim
    )
    cell, b = params.cell(), params.backbone
    assert b.name == "vit"
    images, classes = cell.train.batch_size, 10
    patches = (cell.data.image_size // b.patch_size) ** 2
    forward = encoder_flops(images, patches + 1, b.embed_dim, b.depth, b.mlp_ratio)
    head = 2 * images * b.embed_dim * classes
    embed = 2 * images * patches * b.embed_dim * b.patch_size**2
    # backward twice the forward; the pixels need no gradient
    expected = 3 * (forward + head) + 2 * embed
    assert step_flops(cell, classes) == pytest.approx(expected, rel=1e-6)


def test_a_step_of_the_plain_convolutional_network_is_the_textbook_formula() -> None:
    backbone = {"name": "cnn", "width": 6, "depth": 3, "weights": None}
    cell = changed_params(method="supervised", backbone=backbone).cell()
    images, side, classes = cell.train.batch_size, cell.data.image_size, 10
    first = 2 * images * side**2 * 9 * 1 * 6
    rest = 2 * images * 9 * ((side // 2) ** 2 * 6 * 12 + (side // 4) ** 2 * 12 * 24)
    head = 2 * images * 24 * classes
    # backward twice the forward; the pixels need no gradient
    assert step_flops(cell, classes) == 2 * first + 3 * (rest + head)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_counted(method: str) -> None:
    assert training_flops(changed_params(method=method).cell(), 10) > 0


def test_work_grows_with_what_the_method_does() -> None:
    def flops(method: str, ratio: float = 0.75) -> int:
        return step_flops(changed_params(method=method, mask_ratio=ratio).cell(), 10)

    assert flops("supervised") < flops("fixmatch") < flops("semi_mae")
    assert flops("semi_mae", 0.75) < flops("semi_mae", 0.25)


def test_a_run_is_its_steps_and_its_phases() -> None:
    cell = changed_params(method="fixmatch", train__steps=7).cell()
    assert training_flops(cell, 10) == 7 * step_flops(cell, 10)
    params = changed_params(
        method="mae_finetune", start__mae_steps=3, train__steps=5, start__supervised_steps=0
    )
    parts = [changed_params(method=name).cell() for name in ("mae", "supervised")]
    expected = 3 * step_flops(parts[0], 10) + 5 * step_flops(parts[1], 10)
    assert training_flops(params.cell(), 10) == expected


def test_trimming_saves_what_it_says() -> None:
    def flops(*trim: str) -> int:
        return step_flops(changed_params(method="semi_mae", train__trim=list(trim)).cell(), 10)

    assert flops("class_token") < flops() > flops("hidden_patches")
    assert flops("class_token", "hidden_patches") < min(
        flops("class_token"), flops("hidden_patches")
    )
