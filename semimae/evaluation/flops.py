"""Count the floating-point operations of a training run, independent of the device."""

import copy
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from semimae.backbones.tuning import tune
from semimae.engine.device import set_up_model
from semimae.engine.phases import phases
from semimae.methods.registry import build_method
from semimae.model import build_model
from semimae.options.cell import Cell
from semimae.random import generator
from semimae.types import Batch


def count_flops(function: Callable[[], object]) -> int:
    """Return the floating-point operations of the matrix products and convolutions in a call.

    A multiplication and an addition count as two operations, as in torch's counter.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def step_flops(cell: Cell, num_classes: int, num_unlabeled: int = 1) -> int:
    """Return the floating-point operations of one training step, forward and backward.

    Operations are counted on tensors without memory, which takes about as long as building the
    model. All strong views are included: a step that skips rejected ones takes fewer operations.
    Work that ``train.recompute`` repeats is not counted.

    Args:
        cell: A cell with one phase. See ``training_flops`` for others.
        num_classes: Classes of the dataset.
        num_unlabeled: Unlabeled images of the dataset, which do not affect the count.
    """
    meta = torch.device("meta")
    model = build_model(
        cell.backbone.model_copy(update={"weights": None}),
        cell.mim,
        image_size=cell.data.image_size,
        channels=cell.data.channels,
        num_classes=num_classes,
        seed=cell.seed,
    )
    tune(model.backbone, cell.backbone, generator(cell.seed, "lora"))
    model = model.to(meta)
    plain = cell.train.model_copy(update={"compile": False, "recompute": False})
    set_up_model(model, plain, meta)
    teacher = copy.deepcopy(model).requires_grad_(False)
    method = build_method(cell.options, num_classes, num_unlabeled).to(meta)
    labeled, unlabeled = cell.train.batch_size, cell.num_unlabeled
    shape = (cell.data.channels, cell.data.image_size, cell.data.image_size)
    with meta:
        batch = Batch(
            labeled=torch.empty(labeled, *shape),
            labels=torch.empty(labeled, dtype=torch.long),
            weak=torch.empty(unlabeled, *shape),
            strong=torch.empty(unlabeled, *shape),
            mask_noise=torch.empty(unlabeled, model.backbone.num_patches),
            mix_noise=torch.empty(unlabeled, 4),
            unlabeled_index=torch.empty(unlabeled, dtype=torch.long),
            progress=1.0,
        )

    def step() -> None:
        inputs = method.label(model, teacher, batch)
        losses = method.losses(model, teacher, inputs)
        torch.stack(list(losses.values())).sum().backward()

    return count_flops(step)


def training_flops(cell: Cell, num_classes: int) -> int:
    """Return the floating-point operations of a whole run, over all its trainings and phases.

    Validation, gradient measurements and labeling by teachers are not included.
    """
    runs = [*cell.teachers(), *phases(cell)]
    once = sum(run.train.steps * step_flops(run, num_classes) for run in runs)
    return once * cell.trainings
