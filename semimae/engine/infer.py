"""Running a model over a set of images."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from semimae.data.loader import eval_batches
from semimae.data.store import Prepared, Rows
from semimae.engine.device import make_autocast, set_up_device
from semimae.model import SemiModel
from semimae.options.cell import Cell
from semimae.types import Interrupted, UserError

ImagesAndLabels = tuple[Tensor, Tensor]
EVAL_BATCH = 512  # images per forward pass without gradient


class Outputs(NamedTuple):
    """What a model says of a set of images, on the CPU."""

    features: Tensor  # [N, D], pooled, before the classifier
    probabilities: Tensor  # [N, classes], float64
    labels: Tensor  # [N]


def until_stopped(
    batches: Iterable[ImagesAndLabels], should_stop: Callable[[], bool]
) -> Iterator[ImagesAndLabels]:
    """Ask between batches whether to go on: scoring many images must not hold up a stop.

    Raises:
        Interrupted: After ``should_stop``.
    """
    for index, batch in enumerate(batches):
        if index and should_stop():
            raise Interrupted("stopped while scoring images; the next run continues from there")
        yield batch


@torch.no_grad()
def run_model(
    model: SemiModel,
    batches: Iterable[ImagesAndLabels],
    autocast: Callable[[], torch.autocast],
) -> Outputs:
    """Run a model over batches of normalized images and labels.

    Raises:
        UserError: If its outputs are not finite.
    """
    parts = []
    for images, labels in batches:
        with autocast():
            features = model.backbone.features(images)
            logits = model.backbone.classify(features)
        probabilities = logits.cpu().double().softmax(dim=-1)
        parts.append((features.float().cpu(), probabilities, labels.cpu()))
    outputs = Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if not (outputs.features.isfinite().all() and outputs.probabilities.isfinite().all()):
        raise UserError(
            "the model's outputs are not finite: its training has diverged; lower optim.lr or "
            "raise optim.warmup_steps."
        )
    return outputs


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
    device = set_up_device(cell.train)
    model = model.to(device).eval()
    batches = eval_batches(prepared, cell.data, rows, device, EVAL_BATCH)
    autocast = make_autocast(cell.train, device, model.backbone.embed_dim)
    return run_model(model, until_stopped(batches, should_stop), autocast)


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of images whose most likely class is right."""
    return (probabilities.argmax(dim=1) == labels).double().mean().item()
