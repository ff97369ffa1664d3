"""What every method keeps to; a new one is tested as soon as it is in the registry."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support import WITH_OWN_PHASE, StepOutput, step_of
from torch import Tensor

from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.methods.base import Method, predict
from semimae.methods.registry import build_method
from semimae.model import SemiModel, model_of
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.types import Batch, LossInputs

WITH_PSEUDO_LABELS = [n for n in WITH_OWN_PHASE if "pseudo_label" in METHODS[n].model_fields]
WITHOUT_UNLABELED = [n for n in WITH_OWN_PHASE if not METHODS[n].uses_unlabeled]


class Setting:
    """A method, a student and a teacher that differ, and the batches of a run."""

    def __init__(self, cell: Cell, prepared: Prepared, split: Split) -> None:
        self.cell, self.prepared = cell, prepared
        self.method = build_method(cell.options, 10, split.num_unlabeled)
        self.model, self.teacher = model_of(cell, prepared), model_of(cell, prepared)
        self.teacher.requires_grad_(False)
        if cell.options.uses_unlabeled:  # SSMAE's gate is opened by a good validation
            self.method.observe_validation(torch.eye(10, dtype=torch.float64), torch.arange(10))
        self.views = TrainViews(
            prepared,
            split,
            cell.data,
            seed=0,
            batch_size=6,
            num_unlabeled=cell.num_unlabeled and 24,
            num_patches=self.model.backbone.num_patches,
            num_steps=100,
            device=torch.device("cpu"),
        )
        images = torch.cat([self.batch(step).labeled for step in range(5)])
        for seed, model in enumerate((self.model, self.teacher)):
            scramble(model, images, seed)

    def batch(self, step: int = 50) -> Batch:
        return self.views(step).batch

    def out(self, step: int = 50) -> StepOutput:
        return self.step(self.batch(step))

    def step(self, batch: Batch) -> StepOutput:
        return step_of(self.method, self.model, self.teacher, batch)

    def total(self, out: StepOutput) -> Tensor:
        """As the training loop adds the terms."""
        return torch.stack([self.method.weights[k] * v for k, v in out.losses.items()]).sum()

    def gradients(self, out: StepOutput) -> dict[str, Tensor]:
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        made = torch.autograd.grad(self.total(out), list(named.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(named.items(), made, strict=True)
        }


@torch.no_grad()
def scramble(model: SemiModel, images: Tensor, seed: int) -> None:
    """Draw the weights anew so that classes and confidences differ between images."""
    source = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad and p.ndim > 1:
            p.copy_(0.2 * torch.randn(p.shape, generator=source))
    head = model.backbone.classifier  # type: ignore[attr-defined]
    logits = model(images)
    spread = (logits - logits.mean(dim=0)).std()
    head.weight.mul_(1.5 / spread)
    head.bias.copy_(-model(images).mean(dim=0))


MakeSetting = Callable[..., Setting]


@pytest.fixture
def setting(small_cell: Callable[..., Cell], digits: Prepared, digits_split: Split) -> MakeSetting:
    def make(method: str, **changes: object) -> Setting:
        return Setting(small_cell(method, **changes), digits, digits_split)

    return make


every_method = pytest.mark.parametrize("name", WITH_OWN_PHASE)


def test_every_other_method_is_made_of_these() -> None:
    assert METHODS.keys() - WITH_OWN_PHASE == {"mae_finetune"}


@every_method
def test_losses_are_scalars_with_gradients_and_each_has_a_weight(
    name: str, setting: MakeSetting
) -> None:
    s = setting(name)
    out = s.out()
    assert out.losses.keys() == s.method.weights.keys()
    assert out.losses
    for key, value in out.losses.items():
        assert value.shape == (), key
        assert value.requires_grad, key
        assert value.isfinite(), key


@every_method
def test_what_is_only_logged_has_no_gradient(name: str, setting: MakeSetting) -> None:
    out = setting(name).out()
    assert not any(value.requires_grad for value in out.metrics.values())
    assert out.metrics.keys().isdisjoint(out.losses)
    if out.pseudo is not None:
        parts = [part for part in out.pseudo if part is not None]
        assert not any(part.requires_grad for part in parts)
        assert all(len(part) == 24 for part in parts)
        assert ((out.pseudo.confidence > 0) & (out.pseudo.confidence <= 1)).all()
        assert ((out.pseudo.weight >= 0) & (out.pseudo.weight <= 1)).all()


@every_method
def test_methods_with_pseudo_labels_show_them(name: str, setting: MakeSetting) -> None:
    assert (setting(name).out().pseudo is not None) == (name in WITH_PSEUDO_LABELS)


@every_method
def test_the_student_learns_and_the_teacher_does_not(name: str, setting: MakeSetting) -> None:
    s = setting(name)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (s.model, s.teacher)]
    gradients = s.gradients(s.out())
    encoder = [g for n, g in gradients.items() if n.startswith("backbone.vit.blocks.")]
    assert encoder
    assert all(g.any() for g in encoder)
    assert all(g.isfinite().all() for g in gradients.values())
    assert all(p.grad is None for p in s.teacher.parameters())
    for old, module in zip(before, (s.model, s.teacher), strict=True):
        for key, value in module.state_dict().items():
            assert torch.equal(value, old[key]), f"a step changed {key}"


@every_method
def test_every_loss_term_pulls_at_the_encoder(name: str, setting: MakeSetting) -> None:
    s = setting(name, pseudo_label__threshold=0.3)
    out = s.out()
    weight = s.model.backbone.vit.blocks[0].attn.qkv.weight  # type: ignore[attr-defined]
    for key, loss in out.losses.items():
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)
        assert gradient is not None, key
        assert gradient.any(), key


@every_method
def test_the_same_batch_gives_the_same_losses(name: str, setting: MakeSetting) -> None:
    """All randomness is in the batch."""
    torch.manual_seed(1)
    first = setting(name).out()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    s = setting(name)
    assert torch.equal(torch.get_rng_state(), state)
    again = s.out()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(again.losses[k], v) for k, v in first.losses.items())
    assert all(torch.equal(again.metrics[k], v) for k, v in first.metrics.items())


@every_method
def test_what_outlives_a_step_is_in_the_state_dict(name: str, setting: MakeSetting) -> None:
    """Or a resumed run would differ: only the state dict is in a checkpoint."""
    s, resumed = setting(name), setting(name)
    for step in range(3):
        s.out(step)
    saved = {k: v.clone() for k, v in s.method.state_dict().items()}
    fresh = build_method(s.method.options, 10, s.method.num_unlabeled)
    fresh.load_state_dict(saved)
    resumed.method = fresh
    expected, got = s.out(3), resumed.out(3)
    assert all(torch.equal(got.losses[k], v) for k, v in expected.losses.items())
    assert all(torch.equal(got.metrics[k], v) for k, v in expected.metrics.items())


@every_method
def test_half_precision_gives_about_the_same_losses(name: str, setting: MakeSetting) -> None:
    def run(half: bool) -> StepOutput:
        s = setting(name, pseudo_label__threshold=0.0, pseudo_label__threshold_start=0.0)
        s.model, s.teacher = (model_of(s.cell, s.prepared) for _ in range(2))  # small weights
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return s.out()

    full, half = run(False), run(True)
    for key, value in full.losses.items():
        assert half.losses[key].item() == pytest.approx(value.item(), rel=0.05, abs=0.02), key


@pytest.mark.parametrize("name", WITHOUT_UNLABELED)
def test_methods_of_labeled_images_alone_see_no_unlabeled_image(
    name: str, setting: MakeSetting
) -> None:
    s = setting(name)
    batch = s.batch()
    assert not len(batch.weak)
    expected = s.step(batch)
    nothing = torch.full((5, 1, 8, 8), float("nan"))
    other = batch._replace(weak=nothing, strong=nothing, mask_noise=torch.full((5, 16), 0.5))
    got = s.step(other)
    assert expected.losses.keys() == got.losses.keys()
    assert all(torch.equal(got.losses[k], v) for k, v in expected.losses.items())


@every_method
def test_labels_reach_the_supervised_term_alone(name: str, setting: MakeSetting) -> None:
    """Unless predictions are aligned to the labeled classes, which is off by default."""
    one, other = setting(name), setting(name)
    batch = one.batch()
    expected = one.step(batch)
    changed = batch._replace(labels=(batch.labels + 1) % 10)
    got = other.step(changed)
    for key, value in expected.losses.items():
        assert torch.equal(got.losses[key], value) == (key != "supervised"), key


@every_method
def test_the_supervised_term_is_the_mean_cross_entropy(name: str, setting: MakeSetting) -> None:
    s = setting(name)
    if "supervised" not in s.method.weights:
        assert name == "mae"
        return
    batch = s.batch()
    logits = s.model(batch.labeled).detach().double().numpy()
    log_total = np.log(np.exp(logits).sum(axis=1))
    expected = (log_total - logits[np.arange(6), batch.labels.numpy()]).mean()
    assert s.out().losses["supervised"].item() == pytest.approx(expected, rel=1e-4)


# --- leaving rejected views out


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize(
    ("threshold", "kept"), [(0.0, "all"), (0.6, "some"), (1.0, "none")], ids=lambda v: str(v)
)
@pytest.mark.parametrize("name", WITH_PSEUDO_LABELS)
def test_leaving_rejected_views_out_changes_nothing(
    name: str, threshold: float, kept: str, mixup: bool, setting: MakeSetting
) -> None:
    def run(skip: bool) -> tuple[Setting, StepOutput]:
        s = setting(
            name,
            pseudo_label__skip_rejected="cpu" if skip else "never",
            pseudo_label__threshold=threshold,
            pseudo_label__threshold_start=threshold,
            pseudo_label__mixup=mixup,
        )
        return s, s.out()

    (dense, all_views), (sparse, kept_views) = run(False), run(True)
    if name == "fixmatch":  # the case is what it is called
        assert all_views.pseudo is not None
        share = all_views.pseudo.weight.mean().item()
        assert {"all": share == 1, "some": 0 < share < 1, "none": share == 0}[kept]
    for key, value in all_views.losses.items():
        torch.testing.assert_close(kept_views.losses[key], value, rtol=1e-5, atol=1e-6)
    ours, theirs = sparse.gradients(kept_views), dense.gradients(all_views)
    for key, value in theirs.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5 * scale + 1e-8)


def test_rejected_views_are_really_left_out(setting: MakeSetting) -> None:
    """They may hold anything: nothing is computed from them."""
    s = setting("fixmatch", pseudo_label__threshold=0.6, pseudo_label__skip_rejected="cpu")
    batch = s.batch()
    expected = s.step(batch)
    rejected = expected.pseudo.weight == 0
    strong = batch.strong.masked_fill(rejected.reshape(-1, 1, 1, 1), float("nan"))
    got = s.step(batch._replace(strong=strong))
    assert torch.equal(got.losses["consistency"], expected.losses["consistency"])


# --- how methods relate


def test_semi_mae_without_reconstruction_is_fixmatch(setting: MakeSetting) -> None:
    semi_mae, fixmatch = setting("semi_mae", mim__lambda_mim=0.0), setting("fixmatch")
    one, other = semi_mae.out(), fixmatch.out()
    torch.testing.assert_close(semi_mae.total(one), fixmatch.total(other))
    ours, theirs = semi_mae.gradients(one), fixmatch.gradients(other)
    assert theirs.keys() <= ours.keys()
    for key, gradient in ours.items():
        if key in theirs:
            torch.testing.assert_close(gradient, theirs[key], rtol=1e-5, atol=1e-7)
        else:
            assert key.startswith("mim.")
            assert not gradient.any()


def test_semi_mae_is_fixmatch_plus_the_weighted_reconstruction(setting: MakeSetting) -> None:
    semi_mae, fixmatch, mae = (
        setting("semi_mae", mim__lambda_mim=0.25),
        setting("fixmatch"),
        setting("mae"),
    )
    for (key, model), value in zip(
        semi_mae.model.state_dict().items(), mae.model.state_dict().values(), strict=True
    ):
        assert torch.equal(model, value), key  # the same first weights
    total = fixmatch.total(fixmatch.out()) + 0.25 * mae.total(mae.out())
    torch.testing.assert_close(semi_mae.total(semi_mae.out()), total)


@pytest.mark.parametrize("name", ["fixmatch", "semi_mae"])
def test_pseudo_labels_come_from_the_teacher_that_is_named(name: str, setting: MakeSetting) -> None:
    ema, student = (setting(name, pseudo_label__teacher=t) for t in ("ema", "student"))
    for s, labeller in ((ema, ema.teacher), (student, student.model)):
        probabilities = _softmax(labeller, s.batch().weak)
        pseudo = s.out().pseudo
        assert pseudo is not None
        assert pseudo.labels.tolist() == probabilities.argmax(axis=1).tolist()
        np.testing.assert_allclose(pseudo.confidence, probabilities.max(axis=1), rtol=1e-4)
        assert pseudo.weight.tolist() == (probabilities.max(axis=1) >= 0.8).tolist()


def _softmax(model: SemiModel, images: Tensor) -> np.ndarray:
    logits = model(images).detach().double().numpy()
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_a_method_has_to_say_what_it_does() -> None:
    nothing = Method(None, 10, 5)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        _ = nothing.weights
    with pytest.raises(NotImplementedError):
        nothing.losses(None, None, LossInputs(None))  # type: ignore[arg-type]


# --- options of pseudo labels


@pytest.mark.parametrize("name", WITH_PSEUDO_LABELS)
def test_the_consistency_loss_of_every_method_is_faded_in(name: str, setting: MakeSetting) -> None:
    changes = {"pseudo_label__threshold": 0.0, "pseudo_label__threshold_start": 0.0}
    plain = setting(name, **changes).out(50).losses["consistency"].item()
    faded = setting(name, **changes, pseudo_label__lambda_ramp=1.0).out(50).losses["consistency"]
    assert plain > 0
    assert faded.item() == pytest.approx(plain * math.exp(-5 * 0.5**2))


def test_ssmae_raises_its_threshold_as_the_others_do(setting: MakeSetting) -> None:
    changes = {"pseudo_label__threshold": 0.0, "ssmae__gate_start": 0.0}
    for start, accepts in ((0.0, True), (1.0, False)):
        s = setting(
            "ssmae",
            **changes,
            pseudo_label__threshold_start=start,
            pseudo_label__threshold_ramp=1.0,
        )
        pseudo = s.method.label(s.model, s.teacher, s.batch(0)).pseudo
        assert pseudo is not None
        assert bool(pseudo.weight.any()) == accepts


def test_softmatch_aligns_predictions_to_weigh_and_not_to_label(setting: MakeSetting) -> None:
    s = setting("softmatch")
    probs = predict(s.teacher, s.batch(), "weak")
    s.method.align.mean_probs.copy_(torch.linspace(1, 60, 10).softmax(dim=0))  # type: ignore[union-attr,operator]
    aligned = s.method.align(probs, s.batch().labels)  # type: ignore[operator]
    assert not torch.equal(aligned.argmax(dim=1), probs.argmax(dim=1))
    pseudo = s.method.label(s.model, s.teacher, s.batch()).pseudo
    assert pseudo is not None
    assert torch.equal(pseudo.labels, probs.argmax(dim=1))
