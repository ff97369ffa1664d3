"""From a cell and its images to trained weights: builds what the loop needs and runs it."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from semimae.cell import Cell
from semimae.data.loader import Rows, TrainViews, eval_batches
from semimae.data.split import Split
from semimae.data.store import DatasetInfo, Prepared
from semimae.distributed import any_process, gather_rows, own_share
from semimae.engine.bad_steps import BadSteps
from semimae.engine.checkpoint import Checkpoints, Row, TrainState, save_tensors
from semimae.engine.device import make_autocast, set_up_model, setup_device
from semimae.engine.infer import Outputs, run_model, until_stopped
from semimae.engine.memory import check_memory
from semimae.engine.model_info import METADATA, ModelInfo
from semimae.engine.optim import build_optimizer
from semimae.engine.train import train
from semimae.methods.registry import METHODS
from semimae.model import SemiModel, build_model
from semimae.types import Interrupted, UserError

_log = logging.getLogger(__name__)
EVAL_BATCH = 512  # images per forward pass without gradient


def model_of(cell: Cell, prepared: Prepared) -> SemiModel:
    """Build the cell's model with its first weights, on the CPU.

    Raises:
        UserError: If the prepared images do not have the cell's size, or the file of starting
            weights is not the one that the cell was made for.
    """
    root = prepared.root or Path()
    if cell.weights_sha256 is not None and cell.with_weights_hash(root) != cell:
        raise UserError(
            f"backbone.weights={cell.backbone.weights} has changed; run `dvc repro -f`."
        )
    info = prepared.info
    if (info.image_size, info.channels) != (cell.data.image_size, cell.data.channels):
        raise UserError(
            f"the prepared images are {info.image_size} px with {info.channels} channels, the cell "
            f"wants {cell.data.image_size} px with {cell.data.channels}; run `dvc repro prepare`."
        )
    model = build_model(
        cell.backbone,
        cell.mim,
        image_size=info.image_size,
        channels=info.channels,
        num_classes=info.num_classes,
        mask_ratio=cell.mask_ratio,
        seed=cell.seed,
        weights_root=root,
    )
    if model.weight_report is not None:
        _log.info("%s", model.weight_report)
    return model


def fit(
    cell: Cell,
    prepared: Prepared,
    split: Split,
    *,
    checkpoints: Checkpoints,
    on_row: Callable[[str, Row], None],
    should_stop: Callable[[], bool],
    start: SemiModel | None = None,
) -> TrainState:
    """Train a cell, from its newest checkpoint if there is one.

    Args:
        cell: What to train.
        prepared: The images.
        split: Which of them are labeled, unlabeled and for validation.
        checkpoints: Where to save and to continue from.
        on_row: Is told of every logged row, also of those that a resumed run had logged before.
        should_stop: Asked once per step, and between the batches of an evaluation.
        start: A model to start from instead of fresh weights.

    Returns:
        The final state; ``ema`` is the model to use.

    Raises:
        UserError: If the method lacks unlabeled images, the run does not fit into memory, or it
            diverges.
    """
    split.check_unlabeled(cell.method, cell.num_unlabeled)
    device = setup_device(cell.train)
    check_memory(cell, device)
    autocast = make_autocast(cell.train, device)
    model = (start or model_of(cell, prepared)).to(device)
    set_up_model(model, cell.train, device)
    method = METHODS[cell.method](cell.options, prepared.info.num_classes, split.num_unlabeled)
    ema = copy.deepcopy(model).requires_grad_(False)
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
        accumulate=cell.train.accumulate,
    )
    val_rows = np.asarray(split.val, dtype=np.int64)
    val_labels = torch.from_numpy(prepared.labels[val_rows])

    def evaluate(state: TrainState) -> Row | None:
        own = own_share(len(val_rows))  # each process scores its share; all learn the outcome
        shares = [torch.zeros(0, prepared.info.num_classes, dtype=torch.float64)] * 2
        stopped = False
        try:
            if own.stop > own.start:
                models = (state.model, state.ema)
                outputs = (infer(m, cell, prepared, val_rows[own], should_stop) for m in models)
                shares = [output.probabilities for output in outputs]
        except Interrupted:
            stopped = True
        state.model.train()
        if any_process(stopped):
            return None
        student, teacher = (gather_rows(share, own.start, len(val_rows)) for share in shares)
        method.observe_validation(teacher, val_labels)
        true = teacher[torch.arange(len(val_rows)), val_labels]
        top1 = accuracy(teacher, val_labels)
        return {
            "val/top1": top1,
            "val/loss": -true.clamp(min=1e-12).log().mean().item(),
            "val/teacher_gain": top1 - accuracy(student, val_labels),
        }

    try:
        train(
            state,
            views,
            cell.train,
            cell.optim,
            autocast=autocast,
            evaluate=evaluate,
            on_row=on_row,
            checkpoints=checkpoints,
            should_stop=should_stop,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"step {state.step + 1} does not fit into memory ({error}); raise train.accumulate, "
            "set train.recompute: true, or lower train.batch_size or train.mu."
        ) from error
    return state


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of images whose most likely class is right."""
    return (probabilities.argmax(dim=1) == labels).double().mean().item()


def infer(
    model: SemiModel,
    cell: Cell,
    prepared: Prepared,
    rows: Rows,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outputs:
    """Run a model on the rows' whole images, on the cell's device.

    Raises:
        Interrupted: After ``should_stop``, which is asked between batches.
    """
    device = setup_device(cell.train)
    model = model.to(device).eval()
    batches = eval_batches(prepared, cell.data, rows, device, EVAL_BATCH)
    return run_model(model, until_stopped(batches, should_stop), make_autocast(cell.train, device))


def save_model(model: SemiModel, cell: Cell, dataset: DatasetInfo, path: Path) -> None:
    """Write weights; the file's metadata is a ``ModelInfo``, so that the file alone can be used."""
    info = ModelInfo(cell=cell, dataset=dataset)
    # One key only: safetensors writes several in an order that differs between processes.
    save_tensors(model.state_dict(), path, metadata={METADATA: info.model_dump_json()})
    path.chmod(0o644)


def load_model(path: Path, cell: Cell, prepared: Prepared) -> SemiModel:
    """Read weights that ``save_model`` wrote.

    Raises:
        UserError: If the file is missing, damaged or of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not any(name.startswith("mim.") for name in tensors):
            cell = cell.model_copy(update={"mim": None})  # the last of several phases had no branch
        fresh = cell.backbone.model_copy(update={"weights": None})  # all of them are in this file
        model = model_of(cell.model_copy(update={"backbone": fresh}), prepared)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded: {reason}; run `dvc repro`.") from None
    return model
