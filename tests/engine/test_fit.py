import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support import Time, Waits, small_rhythm

from semimae.calibration import MIN_IMAGES, fit_temperature
from semimae.data.evaluation import eval_batches
from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine import fit as fit_module
from semimae.engine import infer as infer_module
from semimae.engine import loop
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.device import make_autocast, set_up_device
from semimae.engine.fit import fit, temperature_of
from semimae.engine.gradients import Gradients
from semimae.engine.infer import infer
from semimae.model import model_of
from semimae.model_file import ModelInfo, open_model, save_model
from semimae.options.cell import Cell
from semimae.options.method import METHODS
from semimae.options.train import Rhythm
from semimae.types import UserError

MakeCell = Callable[..., Cell]


def run(
    cell: Cell, prepared: Prepared, split: Split, folder: Path, rhythm: Rhythm | None = None
) -> TrainState:
    return fit(
        cell,
        prepared,
        split,
        rhythm or small_rhythm(),
        checkpoints=Checkpoints(folder),
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
    )


# --- first weights


def test_first_weights_depend_on_the_seed_alone(small_cell: MakeCell, digits: Prepared) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = model_of(small_cell(), digits).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = model_of(small_cell(optim__lr=1e-4), digits).state_dict()
    other = model_of(small_cell(seed=1), digits).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    drawn = [name for name in first if name.endswith(("qkv.weight", "head.weight", "_token"))]
    assert len(drawn) > 3
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_all_methods_start_from_the_same_backbone(small_cell: MakeCell, digits: Prepared) -> None:
    supervised = model_of(small_cell("supervised"), digits).state_dict()
    semi_mae = model_of(small_cell("semi_mae"), digits).state_dict()
    assert supervised.keys() < semi_mae.keys()
    assert all(torch.equal(value, semi_mae[name]) for name, value in supervised.items())


def test_images_of_another_size_are_refused(small_cell: MakeCell, digits: Prepared) -> None:
    with pytest.raises(UserError, match=r"images are 8 px .* wants 16 px .* `dvc repro prepare`"):
        model_of(small_cell(data__image_size=16), digits)


# --- training


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"mae_finetune", "semi_vit"}))
def test_the_host_waits_for_rows_alone_and_not_for_steps(
    method: str, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    def waits(steps: int) -> list[str]:
        rhythm = {"train__log_every": 99, "train__eval_every": 99}
        rhythm |= {"train__save_every": 99, "train__gradient_every": 1}
        cell = small_cell(method, train__steps=steps, pseudo_label__skip_rejected="never", **rhythm)
        with Waits() as mode:
            run(cell, digits, digits_split, tmp_path / f"{steps}", small_rhythm(**rhythm))
        return mode.seen

    assert waits(3) == waits(7) != []


@pytest.mark.parametrize("late", [0.25, 3.0])
@pytest.mark.parametrize("method", ["supervised", "semi_mae"])
def test_rows_say_how_long_steps_waited_for_data(
    method: str,
    late: float,
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time passes where the test says so: 1 s in computing, ``late`` in data, more elsewhere."""
    clock = Time()
    monkeypatch.setattr(loop, "time", clock)

    def taking(owner: object, name: str, seconds: float) -> None:
        whole = getattr(owner, name)

        def slow(*given: Any, **options: Any) -> Any:
            clock.sleep(seconds)
            return whole(*given, **options)

        monkeypatch.setattr(owner, name, slow)

    taking(Gradients, "compute", 1.0)
    taking(fit_module, "evaluate", 50.0)  # neither of these two is a step
    taking(Checkpoints, "save", 70.0)
    quick = run(small_cell(method), digits, digits_split, tmp_path / "quick")
    assert [row["data_wait"] for row in quick.history] == [0.0] * len(quick.history)
    taking(TrainViews, "__call__", late)
    slow = run(small_cell(method), digits, digits_split, tmp_path / "slow")
    assert [row["data_wait"] for row in slow.history] == pytest.approx(
        [late / (1 + late)] * len(slow.history)
    )
    assert len(slow.history) > 1


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "semi_mae"])
def test_the_loss_goes_down(
    method: str, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    sizes = {"backbone__patch_size": 4, "backbone__embed_dim": 32, "train__batch_size": 16}
    cell = small_cell(method, optim__lr=5e-3, train__steps=80, **sizes)
    rhythm = small_rhythm(train__log_every=10, train__eval_every=80)
    state = run(cell, digits, digits_split, tmp_path, rhythm)
    first, last = state.history[0], state.history[-1]
    assert last["loss/supervised"] < 0.7 * first["loss/supervised"]
    if method == "semi_mae":
        assert last["loss/reconstruction"] < 0.8 * first["loss/reconstruction"]
    assert state.validation[-1]["val/top1"] > 0.3  # chance: 0.1


def test_the_validation_row_says_what_the_average_predicts(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    sizes = {"backbone__patch_size": 4, "backbone__embed_dim": 32, "train__batch_size": 16}
    cell = small_cell("fixmatch", optim__lr=5e-3, train__steps=30, train__ema_decay=0.99, **sizes)
    state = run(cell, digits, digits_split, tmp_path)
    assert digits.images is not None
    rows = np.array(digits_split.val)
    images = (digits.images[rows].transpose(0, 3, 1, 2) / 255 - digits.info.mean[0]) / (
        digits.info.std[0]
    )
    right, nll = {}, 0.0
    for name, model in (("ema", state.ema), ("model", state.model)):
        with torch.no_grad():
            logits = model(torch.from_numpy(images).float()).double().numpy()
        right[name] = (logits.argmax(axis=1) == digits.labels[rows]).mean()
        if name == "ema":
            picked = logits[np.arange(len(rows)), digits.labels[rows]]
            nll = (np.log(np.exp(logits).sum(axis=1)) - picked).mean()
    assert right["ema"] != right["model"]
    row = state.validation[-1]
    assert row["val/top1"] == pytest.approx(right["ema"])
    assert row["val/teacher_gain"] == pytest.approx(right["ema"] - right["model"])
    assert row["val/loss"] == pytest.approx(nll, rel=1e-4)


def test_training_opens_neither_the_test_images_nor_hidden_labels(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """With other test images and other hidden classes the weights are the same."""
    assert digits.images is not None
    images, labels = np.array(digits.images), digits.labels.copy()
    test = digits.splits == "test"
    images[test] = 255 - images[test]
    hidden = np.setdiff1d(np.arange(len(labels)), [*digits_split.labeled, *digits_split.val])
    labels[hidden] = (labels[hidden] + 3) % 10
    other = Prepared(digits.info, digits.names, labels, digits.splits, images)
    cell = small_cell("semi_mae")
    one = run(cell, digits, digits_split, tmp_path / "a")
    two = run(cell, other, digits_split, tmp_path / "b")
    for name, value in one.ema.state_dict().items():
        assert torch.equal(value, two.ema.state_dict()[name]), name
    assert one.history[-1]["pseudo/accuracy_all"] != two.history[-1]["pseudo/accuracy_all"]


@pytest.mark.parametrize("method", ["fixmatch", "freematch", "softmatch", "mean_teacher", "ssmae"])
def test_validation_images_judge_the_pseudo_labels_of_own_images(
    method: str, small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """Only labeled images have a class, and they are trained on: `pseudo/accuracy` is not known."""
    known = [*digits_split.labeled, *digits_split.val]
    labels = np.full_like(digits.labels, -1)
    labels[known] = digits.labels[known]
    own = Prepared(digits.info, digits.names, labels, digits.splits, digits.images)
    both = digits_split.model_copy(update={"include_labeled": True})
    split = both.model_copy(update={"num_unlabeled": len(both.unlabeled(own))})
    cell = small_cell(method, pseudo_label__threshold=0.2, pseudo_label__threshold_start=0.2)
    state = run(cell, own, split, tmp_path)
    assert not [key for row in state.history for key in row if key.startswith("pseudo/accuracy")]
    row = state.validation[-1]
    rows = np.array(split.val)
    said = infer(state.ema, cell, own, rows).probabilities.tolist()
    right = [p.index(max(p)) == own.labels[row] for p, row in zip(said, rows, strict=True)]
    if method == "mean_teacher":
        weights = [1.0] * len(rows)
    elif method in ("fixmatch", "ssmae"):
        weights = [float(max(p) >= 0.2) for p in said]
    else:
        weights = None
    if weights is not None:
        assert sum(weights) > 0
        assert row["val/pseudo_coverage"] == pytest.approx(np.mean(weights))
        expected = np.dot(weights, right) / sum(weights)
        assert row["val/pseudo_accuracy"] == pytest.approx(expected)
    else:
        assert 0 < row["val/pseudo_coverage"] <= 1
        assert 0 <= row["val/pseudo_accuracy"] <= 1


def test_the_last_evaluation_fits_a_temperature(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = small_cell("supervised")
    state = run(cell, digits, digits_split, tmp_path / "a")
    *before, last = state.validation
    assert not any("val/temperature" in row for row in before)
    outputs = infer(state.ema, cell, digits, np.array(digits_split.val))
    expected = fit_temperature(outputs.probabilities, outputs.labels)
    assert temperature_of(state) == last["val/temperature"] == pytest.approx(expected, rel=1e-6)
    few = digits_split.model_copy(update={"val": digits_split.val[: MIN_IMAGES - 1]})
    few = few.model_copy(update={"num_unlabeled": len(few.unlabeled(digits))})
    assert temperature_of(run(cell, digits, few, tmp_path / "b")) is None


@pytest.mark.parametrize(("needed", "opened"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_method_hears_of_every_validation(
    needed: float,
    opened: float,
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
) -> None:
    """SSMAE's gate is shut until the first evaluation, at step 3, says otherwise."""
    cell = small_cell("ssmae", ssmae__gate_accuracy=needed)
    state = run(cell, digits, digits_split, tmp_path, small_rhythm(train__log_every=1))
    gate = [row["pseudo/gate"] for row in state.history]
    assert gate == [0, 0, 0, *[opened] * (len(gate) - 3)]


def test_it_can_start_from_a_model(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    cell = small_cell("supervised")
    one_step = cell.train.model_copy(update={"steps": 1})  # the first of the warm-up, of rate 0
    cell = cell.model_copy(update={"train": one_step})
    start = model_of(small_cell("supervised", seed=5), digits)
    expected = {name: value.clone() for name, value in start.state_dict().items()}
    state = fit(
        cell,
        digits,
        digits_split,
        small_rhythm(),
        checkpoints=Checkpoints(tmp_path),
        on_row=lambda kind, row: None,
        should_stop=lambda: False,
        start=start,
    )
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


# --- inference


def test_inference_does_not_depend_on_the_batch_size(
    small_cell: MakeCell, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = small_cell()
    model = model_of(cell, digits)
    rows = np.array([5, 900, 3, 77, 1500, 4, 8])
    whole = infer(model, cell, digits, rows)
    monkeypatch.setattr(infer_module, "EVAL_BATCH", 3)
    parts = infer(model, cell, digits, rows)
    assert whole.labels.tolist() == parts.labels.tolist() == digits.labels[rows].tolist()
    torch.testing.assert_close(parts.features, whole.features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.probabilities, whole.probabilities, rtol=1e-5, atol=1e-7)


def test_inference_gives_pooled_features_and_probabilities(
    small_cell: MakeCell, digits: Prepared
) -> None:
    cell = small_cell()
    model = model_of(cell, digits)
    rows = np.arange(6)
    out = infer(model, cell, digits, rows)
    ((images, _),) = eval_batches(digits, cell.data, rows, torch.device("cpu"), 6)
    with torch.no_grad():
        features, logits = model.backbone.features(images), model(images).double().numpy()
    torch.testing.assert_close(out.features, features)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out.probabilities.numpy(), expected, rtol=1e-6)
    assert out.probabilities.dtype == torch.float64
    assert not out.features.requires_grad


# --- files


def test_a_model_survives_its_file(small_cell: MakeCell, digits: Prepared, tmp_path: Path) -> None:
    cell = small_cell()
    model = model_of(small_cell(seed=3), digits)
    path = tmp_path / "model.safetensors"
    save_model(model, cell, digits.info, path)
    loaded = open_model(path, branch=True).model
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    with safe_open(path, "pt") as file:
        said = ModelInfo.model_validate_json(file.metadata()["semimae"])
    assert said == ModelInfo(cell=cell, dataset=digits.info)


def test_equal_models_give_equal_bytes(
    small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    cell = small_cell()
    for name in "ab":
        save_model(model_of(cell, digits), cell, digits.info, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "truncated", "no weights", "another model"])
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    damage: str, small_cell: MakeCell, digits: Prepared, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    drawn = small_cell(backbone__embed_dim=8) if damage == "another model" else small_cell()
    save_model(model_of(drawn, digits), small_cell(), digits.info, path)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "no weights":
        path.write_bytes(b"hello")
    said = "holds no trained model, or not yet;" if damage == "missing" else "cannot be read: .+"
    with pytest.raises(UserError, match=rf"model\.safetensors {said}") as e:
        open_model(path, branch=True)
    assert "\n" not in str(e.value)


# --- device


def test_auto_is_always_there(small_cell: MakeCell) -> None:
    device = set_up_device(small_cell(train__device="auto").train)
    if torch.cuda.is_available():
        assert device.type == "cuda"
    elif torch.backends.mps.is_available():
        assert device.type == "mps"
    else:
        assert device.type == "cpu"


def test_a_device_that_is_not_there_is_refused(
    small_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = r"train\.device=cuda is not available here; choose one of auto, cpu\."
    with pytest.raises(UserError, match=message):
        set_up_device(small_cell(train__device="cuda").train)
    assert set_up_device(small_cell(train__device="auto").train).type == "cpu"


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_a_gpu_is_named_by_its_number_and_rounds_as_asked(
    precision: str, small_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    cell = small_cell(train__device="cuda", train__precision=precision)
    try:
        assert set_up_device(cell.train) == torch.device("cuda:1")
        flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        assert flags == (precision == "tf32",) * 2
    finally:
        set_up_device(small_cell(train__device="cpu").train)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_repeats_its_bits_where_that_is_asked_for(
    device: str, asked: bool, small_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        set_up_device(small_cell(train__device=device, train__deterministic=asked).train)
        on = asked and device == "cuda"
        assert torch.are_deterministic_algorithms_enabled() is on
        assert torch.backends.cuda.flash_sdp_enabled() is not on
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is on
    finally:
        set_up_device(small_cell(train__device="cpu").train)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_an_operation_that_cannot_repeat_its_bits_names_the_setting(
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("adaptive_pool does not have a deterministic implementation, but. More")

    monkeypatch.setattr("semimae.engine.fit.train", fail)
    with pytest.raises(UserError, match=r"adaptive_pool .* set train\.deterministic: false"):
        run(small_cell("fixmatch"), digits, digits_split, tmp_path)


@pytest.mark.parametrize(
    ("precision", "device", "units", "width", "half"),
    [
        ("auto", "cpu", {"avx512_bf16": True}, 192, True),
        ("auto", "cpu", {"avx512_bf16": False, "amx_bf16": True}, 768, True),
        ("auto", "cpu", {"bf16": True}, 192, True),
        ("auto", "cpu", {"avx512_bf16": True}, 96, False),
        ("auto", "cpu", {"avx2": True}, 768, False),
        ("auto", "cuda", {}, 16, True),
        ("bf16", "cpu", {}, 16, True),
        ("fp32", "cpu", {"avx512_bf16": True}, 768, False),
    ],
)
def test_precision(
    precision: str,
    device: str,
    units: dict[str, bool],
    width: int,
    half: bool,
    small_cell: MakeCell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    config = small_cell(train__precision=precision).train
    with make_autocast(config, torch.device(device), width)():
        assert torch.is_autocast_enabled(device) == half
