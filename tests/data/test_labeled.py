"""Mixing and smoothing of labeled images, against timm's on equal draws."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm.data.mixup
import torch
from scipy import stats
from support import section
from timm.data.mixup import Mixup, mixup_target, rand_bbox
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from semimae.data import loader
from semimae.data.labeled import MIX_DRAWS, mix_neighbors, mixing_draws, soft_targets
from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.distributed import share_of
from semimae.losses import supervised_loss
from semimae.mixing import plan_mixing, rectangles
from semimae.options.labeled import LabeledConfig
from semimae.random import uniform
from semimae.types import Batch

CLASSES = 5
ALL: dict[str, Any] = {"view": "strong", "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}


def config(**changes: Any) -> LabeledConfig:
    made: LabeledConfig = section("labeled", **changes)
    return made


def draws_of(count: int) -> Tensor:
    return uniform((count, MIX_DRAWS), 0, "mix")


# --- shares


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_are_beta_distributed(kind: str, alpha: float) -> None:
    draws = draws_of(4000)
    share, is_cut, _ = mixing_draws(draws, config(**{kind: alpha}))
    assert bool(is_cut.all()) is bool(is_cut.any()) is (kind == "cutmix")
    theirs = np.random.default_rng(0).beta(alpha, alpha, size=4000)
    assert stats.ks_2samp(share.numpy(), theirs).pvalue > 0.01
    # The quantile is that of the draw itself. Near 1 a share has too few digits left.
    low = share < 0.5
    np.testing.assert_allclose(stats.beta.cdf(share[low], alpha, alpha), draws[low, 2], atol=1e-5)


def test_half_of_the_mixed_images_are_cut_and_the_others_stay_whole() -> None:
    options = config(**ALL, mix_probability=0.7, switch_probability=0.25)
    share, is_cut, _ = mixing_draws(draws_of(10_000), options)
    mixed = share < 1
    assert mixed.double().mean().item() == pytest.approx(0.7, abs=0.02)
    assert is_cut[mixed].double().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-9, 1e-3, 100.0])
def test_any_alpha_gives_shares(alpha: float) -> None:
    draws = draws_of(100)
    draws[0], draws[1] = 0.0, 1 - 2**-24
    share, _, _ = mixing_draws(draws, config(mixup=alpha))
    assert ((share >= 0) & (share <= 1)).all()


# --- against timm's Mixup


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_and_targets_are_those_of_timm(
    kind: str, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two images each is the other's partner, for timm as for us."""
    alphas = {"mixup": 0.8, "cutmix": 1.0}
    options = config(**{k: v for k, v in alphas.items() if kind in (k, "both")})
    images, labels = torch.randn(40, 2, 3, 12, 20), torch.randint(CLASSES, (40, 2))
    draws = draws_of(80).view(40, 2, MIX_DRAWS)
    for pair, classes, numbers in zip(images, labels, draws, strict=True):
        targets = soft_targets(classes, CLASSES, smoothing)
        ours = mix_neighbors(pair[[1, 0, 1]], targets[[1, 0, 1]], numbers, options)

        share, is_cut, center = mixing_draws(numbers, options)
        boxes = iter(boxes_of(rectangles(share, center, 12, 20)[is_cut]))

        def box(*args: object, boxes: Any = boxes, **kwargs: object) -> tuple[Any, float]:
            top, bottom, left, right = next(boxes)
            return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / 240

        monkeypatch.setattr(timm.data.mixup, "cutmix_bbox_and_lam", box)
        theirs = Mixup(mode="elem", label_smoothing=smoothing, num_classes=CLASSES)
        given = share.numpy().copy(), is_cut.numpy()
        monkeypatch.setattr(theirs, "_params_per_elem", lambda size, given=given: given)
        expected = theirs(pair.clone(), classes)
        for mine, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def boxes_of(masks: Tensor) -> list[tuple[int, int, int, int]]:
    """Return top, bottom, left and right of the true rectangle of each mask."""
    found = []
    for mask in masks:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        if len(rows) == 0:
            found.append((0, 0, 0, 0))
            continue
        bounds = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        found.append(tuple(int(b) for b in bounds))  # type: ignore[arg-type]
        top, bottom, left, right = found[-1]
        assert mask.sum() == (bottom - top) * (right - left), "no rectangle"
    return found


def test_rectangles_are_those_of_timm_up_to_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 24, 40
    share, _, center = mixing_draws(draws_of(300), config(cutmix=1.0))
    for ours, lam, (down, right) in zip(
        boxes_of(rectangles(share, center, height, width)),
        share.tolist(),
        center.tolist(),
        strict=True,
    ):
        given = iter([int(down * height), int(right * width)])
        monkeypatch.setattr(np.random, "randint", lambda *a, given=given, **k: next(given))
        theirs = [int(side) for side in rand_bbox((3, height, width), lam)]
        if ours == (0, 0, 0, 0):
            assert (theirs[1] - theirs[0]) * (theirs[3] - theirs[2]) <= 2
            continue
        assert np.abs(np.subtract(ours, theirs)).max() <= 1


def test_the_share_of_a_cut_image_is_its_true_area() -> None:
    share, _, center = mixing_draws(draws_of(50), config(cutmix=1.0))
    mixing = plan_mixing(share, torch.ones(50, dtype=torch.bool), center, 9, 11)
    areas = [1 - mask.sum().item() / 99 for mask in mixing.cut]
    assert mixing.share.tolist() == pytest.approx(areas)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_targets_are_those_of_timm(smoothing: float) -> None:
    labels = torch.arange(CLASSES)
    expected = mixup_target(labels, CLASSES, 1.0, smoothing)
    torch.testing.assert_close(soft_targets(labels, CLASSES, smoothing), expected)


# --- batches


EVERYTHING: dict[str, Any] = {
    **{"crop": "resized", "hflip": True, "cutout": 0.3, "erasing": 0.6, "erasing_fill": "noise"},
    **{"randaugment_magnitude_std": 1.5, "randaugment_probability": 0.5, "color_jitter": 0.4},
}


@pytest.fixture
def batch_of(digits: Prepared, digits_split: Split) -> Callable[..., Batch]:
    def make(data: dict[str, Any], step: int = 4, **labeled: Any) -> Batch:
        return TrainViews(
            digits,
            digits_split,
            section("data", **data),
            seed=3,
            batch_size=7,
            num_unlabeled=5,
            num_patches=9,
            num_steps=10,
            device=torch.device("cpu"),
            labeled=config(**labeled),
        )(step).batch

    return make


@pytest.mark.parametrize("data", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_a_batch_is_mixed_with_the_image_before_each(
    view: str, data: dict[str, Any], batch_of: Callable[..., Batch]
) -> None:
    plain = batch_of(data, view=view)
    mixed = batch_of(data, **ALL | {"view": view})
    assert plain.targets is None
    assert mixed.targets is not None
    assert torch.equal(plain.labels, mixed.labels)
    share, is_cut, center = mixing_draws(
        uniform((7, MIX_DRAWS), 3, "mix", "labeled", 4), config(**ALL)
    )
    boxes = boxes_of(rectangles(share, center, 8, 8))
    for i, (top, bottom, left, right) in enumerate(boxes):
        before, part = i - 1, share[i].item()
        expected = plain.labeled[i] * part + plain.labeled[before] * (1 - part)
        if is_cut[i]:
            expected = plain.labeled[i].clone()
            pasted = slice(top, bottom), slice(left, right)
            expected[:, *pasted] = plain.labeled[before][:, *pasted]
            part = 1 - (bottom - top) * (right - left) / 64
        torch.testing.assert_close(mixed.labeled[i], expected)
        for label in range(10):
            hit = part * (plain.labels[i] == label) + (1 - part) * (plain.labels[before] == label)
            assert mixed.targets[i, label].item() == pytest.approx(
                0.9 * hit.item() + 0.01, abs=1e-6
            )
    assert 0 < is_cut.sum() < 7


def test_unlabeled_images_do_not_depend_on_how_labeled_ones_are_regularized(
    batch_of: Callable[..., Batch],
) -> None:
    plain, mixed = batch_of(EVERYTHING), batch_of(EVERYTHING, **ALL)
    for name in ("weak", "strong", "mask_noise", "mix_noise", "unlabeled_index", "labels"):
        assert torch.equal(getattr(plain, name), getattr(mixed, name)), name
    assert not torch.equal(plain.labeled, mixed.labeled)


def test_a_strong_labeled_view_keeps_the_crop(batch_of: Callable[..., Batch]) -> None:
    """Without what makes it strong, it is the weak view."""
    none = {"crop": "resized", "randaugment_ops": 0, "cutout": 0.0}
    weak, strong = batch_of(none), batch_of(none, view="strong")
    assert torch.equal(weak.labeled, strong.labeled)
    strong = batch_of(none | {"randaugment_ops": 2}, view="strong")
    assert not torch.equal(weak.labeled, strong.labeled)


def test_a_share_of_the_labeled_views_is_strong(batch_of: Callable[..., Batch]) -> None:
    """The others are weak views of the same crops."""
    data = {"crop": "resized", "randaugment_ops": 2}
    weak, strong = (batch_of(data, view=view).labeled for view in ("weak", "strong"))
    some = batch_of(data, view="strong", view_probability=0.5).labeled
    chosen = uniform((7,), 3, "strong", "labeled", 4) < 0.5
    assert 0 < int(chosen.sum()) < 7
    assert torch.equal(some, torch.where(chosen.view(-1, 1, 1, 1), strong, weak))


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_shares_of_processes_are_parts_of_the_whole_batch(
    parts: int, batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batch_of(EVERYTHING, **ALL)
    shares = []
    for part in range(parts):
        monkeypatch.setattr(
            loader, "own_share", lambda count, part=part: share_of(count, part, parts)
        )
        shares.append(batch_of(EVERYTHING, **ALL))
    for name in ("labeled", "targets", "weak", "strong"):
        together = torch.cat([getattr(share, name) for share in shares])
        assert torch.equal(together, getattr(whole, name)), name


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5])
def test_losses_and_gradients_of_micro_batches_add_up(
    accumulate: int, batch_of: Callable[..., Batch]
) -> None:
    """The gradient of a logit is its probability less its target, over the images."""
    batch = batch_of(EVERYTHING, **ALL)._replace(accumulate=accumulate)
    logits = (2 * torch.randn(7, 10)).requires_grad_()
    parts = [supervised_loss(logits[b.labeled_rows], b) for b in batch.micro_batches()]
    loss = torch.stack(parts).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert batch.targets is not None
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(logits, batch.targets))
    torch.testing.assert_close(gradient, (logits.softmax(dim=1) - batch.targets) / 7)


def test_the_loss_of_smoothed_labels_is_that_of_timm(batch_of: Callable[..., Batch]) -> None:
    batch = batch_of({}, smoothing=0.1)
    logits = 2 * torch.randn(7, 10)
    expected = LabelSmoothingCrossEntropy(0.1)(logits, batch.labels)
    torch.testing.assert_close(supervised_loss(logits, batch), expected)
