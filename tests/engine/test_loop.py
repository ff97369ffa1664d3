"""The loop alone, around a stub method whose gradients can be spoiled at will."""

import copy
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support import section, step_of
from torch import Tensor, nn

from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.device import make_autocast
from semimae.engine.loop import train
from semimae.engine.optim import build_optimizer
from semimae.methods.base import Method
from semimae.model import SemiModel, build_model
from semimae.options.train import OptimConfig, TrainConfig
from semimae.types import Batch, Interrupted, LossInputs, Step, UserError

CPU = torch.device("cpu")


class Stub(Method):
    """Two terms; at the steps in ``bad`` the gradient is not finite, or the loss alone."""

    def __init__(self, bad: dict[int, float] | None = None, spoils: str = "gradient") -> None:
        nn.Module.__init__(self)
        self.num_classes, self.bad, self.spoils = 3, bad or {}, spoils
        self.register_buffer("memory", torch.zeros(2))

    @property
    def weights(self) -> Mapping[str, float]:
        return {"fit": 2.0, "size": 0.5}

    def losses(self, model: SemiModel, teacher: SemiModel, inputs: LossInputs) -> dict[str, Tensor]:
        batch = inputs.batch
        fit = nn.functional.cross_entropy(model(batch.labeled), batch.labels)
        size = model(batch.labeled).square().mean()
        factor = self.bad.get(round(batch.progress), 1.0)
        if self.spoils == "loss":  # a constant: the gradient stays as it is
            return {"fit": fit, "size": size + (factor if factor != 1.0 else 0.0)}
        return {"fit": fit * factor, "size": size}

    @torch.no_grad()
    def label(self, model: SemiModel, teacher: SemiModel, batch: Batch) -> LossInputs:
        self.memory += self.bad.get(round(batch.progress), 1.0)
        return LossInputs(batch, metrics={"zero": torch.zeros(())})


def steps(number: int) -> Step:
    """The batch of a step; ``progress`` carries the number."""
    source = torch.Generator().manual_seed(number)
    images = torch.randn(6, 1, 8, 8, generator=source)
    nothing = images[:0]
    batch = Batch(
        labeled=images,
        labels=torch.randint(0, 3, (6,), generator=source),
        weak=nothing,
        strong=nothing,
        mask_noise=nothing,
        mix_noise=nothing,
        unlabeled_index=torch.zeros(0, dtype=torch.int64),
        progress=float(number),
    )
    return Step(batch, batch.unlabeled_index)


def small_model() -> SemiModel:
    return build_model(
        section("backbone", depth=1),
        None,
        image_size=8,
        channels=1,
        num_classes=3,
        seed=0,
    )


def configs(**changes: object) -> tuple[TrainConfig, OptimConfig]:
    options = {"steps": 12, "eval_every": 100, "log_every": 100, "save_every": 100}
    options |= {"gradient_every": 0, "ema_decay": 0.99, "max_bad_steps": 3} | changes
    clip = options.pop("grad_clip", 0.5)
    optim = section("optim", lr=3e-3, min_lr=1e-4, warmup_steps=3, grad_clip=clip, weight_decay=0.1)
    return section("train", **options), optim


class Run:
    """One call of ``train`` and everything it said."""

    def __init__(
        self,
        folder: Path,
        method: Stub,
        stop_at: int | None = None,
        stop_evaluating_at: int | None = None,
        **changes: object,
    ):
        self.config, self.optim = configs(**changes)
        model = small_model()
        self.state = TrainState(
            model,
            copy.deepcopy(model).requires_grad_(False),
            method,
            build_optimizer(model, model.backbone, self.optim),
        )
        self.rows: list[tuple[str, Row]] = []
        self.evaluated: list[int] = []
        self.checkpoints = Checkpoints(folder)
        self.checkpoints.load(self.state)
        self.stop_at, self.stop_evaluating_at = stop_at, stop_evaluating_at

    def __call__(self) -> "Run":
        train(
            self.state,
            steps,
            self.config,
            self.config,
            self.optim,
            autocast=make_autocast(self.config, CPU, self.state.model.backbone.embed_dim),
            evaluate=self.evaluate,
            on_row=lambda kind, row: self.rows.append((kind, row)),
            checkpoints=self.checkpoints,
            should_stop=lambda: self.state.step == self.stop_at,
        )
        return self

    def evaluate(self, state: TrainState) -> Row | None:
        self.evaluated.append(state.step)
        if self.state.step == self.stop_evaluating_at:
            return None
        return {"val/score": float(state.step)}

    def weights(self) -> list[Tensor]:
        return [p.detach() for p in self.state.model.parameters()]


def plain_loop(bad: dict[int, float]) -> tuple[SemiModel, SemiModel, list[float], list[float]]:
    """The same training with torch's own optimizer and schedule written out; skips bad steps."""
    config, optim = configs()
    model = small_model()
    ema = copy.deepcopy(model)
    method = Stub(bad)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    tokens = [model.backbone.vit.cls_token]  # type: ignore[attr-defined]
    decayed = [p for p in decayed if all(p is not t for t in tokens)]
    rest = [p for p in model.parameters() if p.requires_grad and all(p is not d for d in decayed)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        betas=optim.betas,
        fused=False,
        foreach=False,
    )
    losses, norms = [], []
    for step in range(config.steps):
        if step < 3:
            lr = 3e-3 * step / 3
        else:
            lr = 1e-4 + (3e-3 - 1e-4) * 0.5 * (1 + math.cos(math.pi * (step - 3) / (12 - 3)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        out = step_of(method, model, ema, steps(step).batch)
        loss = 2.0 * out.losses["fit"] + 0.5 * out.losses["size"]
        optimizer.zero_grad()
        loss.backward()
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        norm = torch.stack(squares).sum().sqrt().item()
        if math.isfinite(norm):
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.mul_(min(1.0, 0.5 / norm))
            optimizer.step()
            losses.append(loss.item())
            norms.append(norm)
        decay = min(0.99, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, p in zip(ema.parameters(), model.parameters(), strict=True):
                average.copy_(decay * average + (1 - decay) * p)
    return model, ema, losses, norms


def parts(name: str, parameter: Tensor) -> list[Tensor]:
    """Leave the keys' bias out: softmax ignores it, so Adam follows mere rounding there."""
    values = parameter.detach()
    return [values.chunk(3)[i] for i in (0, 2)] if name.endswith("qkv.bias") else [values]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "bad",
    [{}, {5: NAN}, {0: INF}, {4: -INF, 5: NAN, 9: INF}],
    ids=["none", "nan", "inf", "several"],
)
def test_the_loop_equals_a_plain_one(bad: dict[int, float], tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(bad))()
    model, ema, losses, norms = plain_loop(bad)
    assert max(norms) > 0.5  # so that clipping did something
    for ours, theirs in ((run.state.model, model), (run.state.ema, ema)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            pairs = zip(parts(name, p), parts(name, q), strict=True)
            for a, b in pairs:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)
    (row,) = run.state.history
    assert row["loss/total"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert row["grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-3)
    assert row["loss/total"] == pytest.approx(
        2 * row["loss/fit"] + 0.5 * row["loss/size"], rel=1e-4
    )
    assert row.get("bad_steps", 0) == len(bad)


def test_training_changes_every_weight_that_can_learn(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub())()
    for (name, after), before in zip(
        run.state.model.named_parameters(), small_model().parameters(), strict=True
    ):
        assert torch.equal(after, before) == (not after.requires_grad), name
    for (name, average), p in zip(
        run.state.ema.named_parameters(), run.state.model.parameters(), strict=True
    ):
        assert torch.equal(average, p) == (not p.requires_grad), name
        assert not average.requires_grad


def test_without_clipping_the_gradient_is_taken_as_it_is(tmp_path: Path) -> None:
    free = Run(tmp_path / "free", Stub(), grad_clip=None, log_every=1)()
    loose = Run(tmp_path / "loose", Stub(), grad_clip=1e6, log_every=1)()
    for a, b in zip(free.weights(), loose.weights(), strict=True):
        assert torch.equal(a, b)
    norms = [[row["grad_norm"] for row in run.state.history] for run in (free, loose)]
    assert norms[0] == norms[1]
    assert not any("clipped" in row for row in free.state.history)
    assert all(row["clipped"] == 0 for row in loose.state.history)


def test_the_share_of_clipped_steps_is_logged(tmp_path: Path) -> None:
    free = Run(tmp_path / "free", Stub(), grad_clip=None, log_every=1)().state.history
    clip = statistics.median(row["grad_norm"] for row in free)
    every = Run(tmp_path / "a", Stub({4: NAN}), grad_clip=clip, log_every=1)().state.history
    norms = [row["grad_norm"] for row in every if "grad_norm" in row]
    (row,) = Run(tmp_path / "b", Stub({4: NAN}), grad_clip=clip)().state.history
    assert len(norms) == 11
    assert 0 < row["clipped"] < 1
    assert row["clipped"] == pytest.approx(sum(n > clip for n in norms) / 11)


def test_without_warm_up_the_average_has_one_decay(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(), ema_warmup=False, ema_decay=0.9, log_every=1, save_every=1)
    before = small_model()
    expected = [p.detach().clone() for p in before.parameters()]
    student = run.weights

    def add(state: TrainState) -> None:
        for average, weight in zip(expected, student(), strict=True):
            average.mul_(0.9).add_(weight, alpha=0.1)

    run.checkpoints.save = add  # type: ignore[method-assign]
    run()
    add(run.state)  # the last step is not saved
    for average, wanted in zip(run.state.ema.parameters(), expected, strict=True):
        torch.testing.assert_close(average, wanted, rtol=1e-5, atol=1e-7)


# --- non-finite gradients


@pytest.mark.parametrize("spoils", ["gradient", "loss"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_step_moves_nothing(value: float, spoils: str, tmp_path: Path) -> None:
    """Nothing that is trained; the moving average goes on towards weights that stay."""
    good = Run(tmp_path / "a", Stub(), stop_at=5)
    bad = Run(tmp_path / "b", Stub({5: value}, spoils), stop_at=6)
    for run in (good, bad):
        with pytest.raises(Interrupted):
            run()
    assert all(torch.equal(a, b) for a, b in zip(good.weights(), bad.weights(), strict=True))
    states = [run.state.optimizer.state_dict()["state"] for run in (good, bad)]
    for index, moments in states[0].items():
        for key, moment in moments.items():
            assert torch.equal(moment, states[1][index][key]), (index, key)
    for run in (good, bad):  # nor does it enter what the method remembers
        assert run.state.method.state_dict()["memory"].tolist() == [5.0, 5.0]
    assert bad.state.bad_steps.counts.tolist()[:3] == [1, 1, 1]


def test_bad_steps_are_counted_over_the_whole_run(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub({1: NAN, 4: NAN, 5: INF}), log_every=3)()
    assert [row.get("bad_steps", 0) for row in run.state.history] == [1, 3, 3, 3]


@pytest.mark.parametrize("value", [NAN, INF])
def test_every_logged_number_is_finite_in_spite_of_a_bad_step(value: float, tmp_path: Path) -> None:
    """A stage writes them as JSON, which knows no NaN."""
    run = Run(tmp_path, Stub({3: value, 4: value}), log_every=2, gradient_every=1)()
    json.dumps(run.state.history, allow_nan=False)
    assert "gradient/fit" in run.state.history[0]


def test_values_of_a_bad_step_are_left_out_of_the_means(tmp_path: Path) -> None:
    run = Run(tmp_path / "bad", Stub({2: NAN, 3: NAN}), log_every=2)()
    row = run.state.history[1]  # both of its steps were bad
    assert not any(name.startswith("loss/") for name in row)
    assert row["bad_steps"] == 2
    assert "loss/total" in run.state.history[2]


@pytest.mark.parametrize(
    ("spoils", "value", "term"),
    [("gradient", NAN, "loss/fit"), ("loss", INF, "loss/size")],
)
def test_more_bad_steps_in_a_row_than_allowed_end_the_run(
    spoils: str, value: float, term: str, tmp_path: Path
) -> None:
    bad = dict.fromkeys([1, 4, 5, 6, 7], value)
    run = Run(tmp_path, Stub(bad, spoils), log_every=9, save_every=2)
    with pytest.raises(UserError) as caught:
        run()
    message = str(caught.value)
    assert run.state.step == 8  # where the host looks before it would save
    assert message.startswith(f"step 5: {term} was not finite, the first of 4 bad steps in a row")
    assert "allowed: 3, train.max_bad_steps" in message
    assert "lower optim.lr or raise optim.warmup_steps" in message
    # Checkpoints in the row of bad steps would have taken the place of those before it.
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["step-000000004.json"]
    last = Run(tmp_path, Stub())
    assert last.state.step == 4
    assert all(w.isfinite().all() for w in last.weights())


def test_a_gradient_may_be_bad_where_all_terms_are_finite(tmp_path: Path) -> None:
    class Steep(Stub):
        def losses(
            self, model: SemiModel, teacher: SemiModel, inputs: LossInputs
        ) -> dict[str, Tensor]:
            losses = super().losses(model, teacher, inputs)
            zero = losses["fit"] - losses["fit"].detach()
            return losses | {"fit": losses["fit"] + zero.abs().sqrt()}  # a slope of 0 times inf

    with pytest.raises(UserError, match=r"^step 1: the gradient was not finite, the first of 12"):
        Run(tmp_path, Steep())()


def test_the_allowed_number_of_bad_steps_does_not_end_it(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(dict.fromkeys([1, 2, 3, 5, 6, 7, 9, 10], NAN)), log_every=2)()
    assert run.state.step == 12


def test_a_run_of_bad_steps_alone_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(dict.fromkeys(range(12), NAN)), max_bad_steps=50)
    with pytest.raises(UserError, match=r"^step 1: loss/fit .* the first of 12 bad steps in a row"):
        run()


def test_a_row_of_bad_steps_is_counted_across_an_interruption(tmp_path: Path) -> None:
    bad = dict.fromkeys([3, 4, 5, 6], NAN)
    with pytest.raises(Interrupted):
        Run(tmp_path, Stub(bad), stop_at=5)()
    with pytest.raises(UserError, match=r"step 4: loss/fit .* 4 bad steps in a row"):
        Run(tmp_path, Stub(bad))()


# --- rhythm


def test_rows_evaluations_and_checkpoints_come_at_the_stated_steps(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(), steps=11, log_every=3, eval_every=4, save_every=5)
    saved: list[int] = []
    save = run.checkpoints.save
    run.checkpoints.save = lambda state: (saved.append(state.step), save(state))[1]  # type: ignore[method-assign]
    run()
    assert [row["step"] for row in run.state.history] == [3, 6, 9, 11]
    assert [row["step"] for row in run.state.validation] == run.evaluated == [4, 8, 11]
    assert [row["val/score"] for row in run.state.validation] == [4, 8, 11]
    assert saved == [5, 10]
    assert run.rows == sorted(
        [("train", r) for r in run.state.history] + [("val", r) for r in run.state.validation],
        key=lambda item: (item[1]["step"], item[0]),
    )


def test_the_last_step_is_logged_and_evaluated_once_and_not_saved(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(), steps=6, log_every=3, eval_every=3, save_every=3)()
    assert [path.name for path in tmp_path.glob("*.json")] == ["step-000000003.json"]
    assert [row["step"] for row in run.state.history] == [3, 6]
    assert run.evaluated == [3, 6]


def test_a_row_is_the_mean_since_the_row_before(tmp_path: Path) -> None:
    every = Run(tmp_path / "a", Stub(), log_every=1)()
    third = Run(tmp_path / "b", Stub(), log_every=3)()
    for i, row in enumerate(third.state.history):
        part = every.state.history[3 * i : 3 * i + 3]
        for name in ("loss/fit", "loss/size", "loss/total", "grad_norm"):
            assert row[name] == pytest.approx(sum(r[name] for r in part) / 3, rel=1e-5)
        assert row["lr"] == part[-1]["lr"]


def test_gradients_are_measured_at_the_stated_steps(tmp_path: Path) -> None:
    run = Run(tmp_path, Stub(), log_every=1, gradient_every=4)()
    measured = [row["step"] - 1 for row in run.state.history if "gradient/fit" in row]
    assert measured == [0, 4, 8]
    never = Run(tmp_path / "never", Stub(), log_every=1)()
    assert not any("gradient/fit" in row for row in never.state.history)
    for a, b in zip(run.weights(), never.weights(), strict=True):
        assert torch.equal(a, b)  # looking changes nothing


def test_time_passes_over_all_attempts(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped after step 4"):
        Run(tmp_path, Stub(), stop_at=4, log_every=1)()
    run = Run(tmp_path, Stub(), log_every=1)()
    seconds = [row["seconds"] for row in run.state.history]
    assert len(seconds) == 12
    assert seconds == sorted(seconds)
    assert [row["time_ms"] for row in run.state.history] == sorted(
        row["time_ms"] for row in run.state.history
    )


def test_a_run_that_is_done_is_only_scored(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        Run(tmp_path, Stub(), stop_at=12)()
    again = Run(tmp_path, Stub())
    before = [w.clone() for w in again.weights()]
    again()
    assert again.state.step == 12
    assert [(kind, row["step"]) for kind, row in again.rows] == [("val", 12)]
    assert all(torch.equal(a, b) for a, b in zip(before, again.weights(), strict=True))


@pytest.mark.parametrize("stop", [3, 12])
def test_an_evaluation_that_was_stopped_is_made_by_the_next_run(stop: int, tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", Stub(), eval_every=3)()
    with pytest.raises(Interrupted, match=f"stopped after step {stop};"):
        Run(tmp_path / "parts", Stub(), stop_evaluating_at=stop, eval_every=3)()
    again = Run(tmp_path / "parts", Stub(), eval_every=3)()
    scores = [(row["step"], row["val/score"]) for row in again.state.validation]
    assert scores == [(3, 3.0), (6, 6.0), (9, 9.0), (12, 12.0)]
    for ours, theirs in zip(again.weights(), whole.weights(), strict=True):
        assert torch.equal(ours, theirs)
