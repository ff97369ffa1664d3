"""From a cell and its images to trained weights: builds what the loop needs and runs it."""

import copy
import logging
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from semimae.backbones.blocks import path_rates
from semimae.backbones.tuning import tune
from semimae.calibration import fit_temperature
from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.distributed import any_process, gather_rows, own_share
from semimae.engine.bad_steps import BadSteps
from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.device import make_autocast, set_up_device, set_up_model
from semimae.engine.graph import recorder_on
from semimae.engine.infer import accuracy, infer_each
from semimae.engine.loop import train
from semimae.engine.memory import check_memory, images_fit
from semimae.engine.optim import build_optimizer
from semimae.engine.teachers import Labels
from semimae.methods.registry import build_method
from semimae.model import SemiModel, model_of
from semimae.options.backbone import check_joint_pass
from semimae.options.cell import Cell
from semimae.options.train import Rhythm
from semimae.random import generator
from semimae.types import Interrupted, PseudoLabels, UserError

_log = logging.getLogger(__name__)


def fit(
    cell: Cell,
    prepared: Prepared,
    split: Split,
    rhythm: Rhythm,
    *,
    checkpoints: Checkpoints,
    on_row: Callable[[str, Row], None],
    should_stop: Callable[[], bool],
    start: SemiModel | None = None,
    labels: Labels | None = None,
    judged: Mapping[int, Row] | None = None,
) -> TrainState:
    """Train a cell, from its newest checkpoint if there is one.

    Args:
        cell: What to train.
        prepared: The images.
        split: Which of them are labeled, unlabeled and for validation.
        rhythm: How often rows are logged, the model is evaluated and the state is saved.
        checkpoints: Where to save and to continue from.
        on_row: Is told of every logged row, also of those that a resumed run had logged before.
        should_stop: Asked once per step, and between the batches of an evaluation.
        start: A model to start from instead of fresh weights.
        labels: What self-training's teachers say of the unlabeled images.
        judged: Without validation images, what stands for their scores, by step; of other steps
            there are none.

    Returns:
        The final state; ``ema`` is the model to use.

    Raises:
        UserError: If the method lacks unlabeled images, the run does not fit into memory, it
            diverges, or BatchNorm would not see a whole batch.
    """
    split.check_unlabeled(cell.method, cell.num_unlabeled)
    device = set_up_device(cell.train)
    recorder = recorder_on(device) if cell.train.graph else None
    check_memory(cell, device)
    model = start or model_of(cell, prepared)
    tune(model.backbone, cell.backbone, generator(cell.seed, "lora"))
    model = model.to(device).train()
    autocast = make_autocast(cell.train, device, model.backbone.embed_dim)
    if model.backbone.mixes_images:
        try:
            check_joint_pass("the backbone", cell.train)
        except ValueError as error:
            raise UserError(f"{error}.") from None
    set_up_model(model, cell.train, device)
    method = build_method(cell.options, prepared.info.num_classes, split.num_unlabeled)
    if labels is not None:
        method.load_state_dict(labels._asdict())
    ema = copy.deepcopy(model).requires_grad_(False).eval()  # it labels by running statistics
    set_up_model(ema, cell.train, device)  # a copy is not compiled
    state = TrainState(
        model=model,
        ema=ema,
        method=method.to(device),
        optimizer=build_optimizer(model, model.backbone, cell.optim, cell.train.sharding),
        bad_steps=BadSteps(device),
    )
    if checkpoints.load(state):
        for row in state.history:
            on_row("train", row)
        for row in state.validation:
            on_row("val", row)
    views = TrainViews(
        prepared,
        split,
        cell.data,
        seed=cell.seed,
        batch_size=cell.train.batch_size,
        num_unlabeled=cell.num_unlabeled,
        num_patches=model.backbone.num_patches,
        num_steps=cell.train.steps,
        device=device,
        labeled=cell.labeled,
        weak_only=not cell.options.learns_classes,
        accumulate=cell.train.accumulate,
        path_rates=_path_rates(cell, model),
        resident=_resident(cell, prepared, split, device),
    )
    try:
        train(
            state,
            views,
            cell.train,
            cell.options.rhythm(rhythm),
            cell.optim,
            autocast=autocast,
            evaluate=lambda state: (
                evaluate(state, cell, prepared, split, should_stop)
                if split.val
                else dict((judged or {}).get(state.step, {}))
            ),
            on_row=on_row,
            checkpoints=checkpoints,
            should_stop=should_stop,
            recorder=recorder,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"step {state.step + 1} does not fit into memory ({error}); raise train.accumulate, "
            "set train.recompute: true, or lower train.batch_size or train.mu."
        ) from error
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).partition(".")[0]
        raise UserError(f"{reason}; set train.deterministic: false.") from error
    return state


def _resident(cell: Cell, prepared: Prepared, split: Split, device: torch.device) -> bool:
    """Return whether packed images are kept on the device; say so where they are not."""
    count = len(split.labeled) + split.num_unlabeled * (cell.num_unlabeled > 0)
    fit = prepared.images is None or images_fit(cell, count, device)
    if not fit:
        _log.info(
            "%d images do not fit on %s beside the model: they stay on the host", count, device
        )
    return fit


def _path_rates(cell: Cell, model: SemiModel) -> Tensor | None:
    """Return the probability that each residual branch is left out, if any ever is."""
    rate = cell.train.drop_path
    if not rate:
        return None
    if not model.backbone.has_paths:
        name = getattr(cell.backbone, "model", cell.backbone.name)
        raise UserError(
            f"train.drop_path={rate:g}: the blocks of {name} are not of two residual branches "
            "each, which stochastic depth leaves out; set train.drop_path: 0.0."
        )
    return path_rates(rate, model.backbone.num_blocks)


def evaluate(
    state: TrainState,
    cell: Cell,
    prepared: Prepared,
    split: Split,
    should_stop: Callable[[], bool],
) -> Row | None:
    """Score student and average on the validation images, and show the method how they did.

    Returns:
        The scores; ``None`` if it was asked to stop.
    """
    rows = np.asarray(split.val, dtype=np.int64)
    labels = torch.from_numpy(prepared.labels[rows])
    own = own_share(len(rows))  # each process scores its share; all learn the outcome
    shares: list[Tensor] = [torch.zeros(0, prepared.info.num_classes, dtype=torch.float64)] * 2
    stopped = False
    try:
        if own.stop > own.start:
            models = (state.model, state.ema)
            outputs = infer_each(models, cell, prepared, rows[own], should_stop)
            shares = [output.probabilities for output in outputs]
    except Interrupted:
        stopped = True
    state.model.train()
    if any_process(stopped):
        return None
    student, teacher = (gather_rows(share, own.start, len(rows)) for share in shares)
    pseudo = state.method.label_validation(student, teacher, state.step / cell.train.steps)
    state.method.observe_validation(teacher, labels)
    true = teacher[torch.arange(len(rows)), labels]
    top1 = accuracy(teacher, labels)
    row = {
        "val/top1": top1,
        "val/loss": -true.clamp(min=1e-12).log().mean().item(),
        "val/teacher_gain": top1 - accuracy(student, labels),
    }
    if pseudo is not None:
        row |= pseudo_label_scores(pseudo, labels)
    if state.step == cell.train.steps and (t := fit_temperature(teacher, labels)) is not None:
        row["val/temperature"] = t
    return row


def temperature_of(state: TrainState) -> float | None:
    """Return the temperature of a finished run's average, or None: see ``fit_temperature``."""
    return state.validation[-1].get("val/temperature")


def pseudo_label_scores(pseudo: PseudoLabels, labels: Tensor) -> Row:
    """Return coverage of the pseudo labels of validation images, and accuracy of those that count.

    Both are weighted as the labels count; of none that counts there is no accuracy.

    Args:
        pseudo: The labels of ``N`` images, on any device.
        labels: ``[N]``, their true classes, on the CPU.
    """
    weight = pseudo.weight.cpu().double()
    right = (pseudo.labels.cpu() == labels).double()
    row = {"val/pseudo_coverage": weight.mean().item()}
    if weight.any():
        row["val/pseudo_accuracy"] = ((right * weight).sum() / weight.sum()).item()
    return row
