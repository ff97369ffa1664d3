"""Running a model over a set of images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from semimae.data.evaluation import eval_batches
from semimae.data.store import Prepared, Rows
from semimae.distributed import gather_rows, own_share
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


class HeldOut(NamedTuple):
    """What models say of images that were held out of their training."""

    rows: Rows  # [N], ascending: each labeled image of cross-validation once
    probabilities: Tensor  # [N, classes], float64


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


class Arriving:
    """Tensors on their way to the host, which waits for them no sooner than it asks."""

    def __init__(self, *tensors: Tensor) -> None:
        is_cuda = tensors[0].is_cuda
        self.tensors = [t.to("cpu", non_blocking=is_cuda) for t in tensors]
        self.done = torch.cuda.Event() if is_cuda else None
        if self.done is not None:
            self.done.record()

    def here(self) -> list[Tensor]:
        """Return them on the CPU."""
        if self.done is not None:
            self.done.synchronize()
        return self.tensors


@torch.no_grad()
def run_models(
    models: Sequence[SemiModel],
    batches: Iterable[ImagesAndLabels],
    autocast: Callable[[], torch.autocast],
) -> list[Outputs]:
    """Run each of several models over the same batches of normalized images and labels.

    Raises:
        UserError: If the outputs of one are not finite.
    """
    parts: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in models]

    def keep(arriving: list[Arriving], labels: Tensor) -> None:
        for column, tensors in zip(parts, arriving, strict=True):
            features, logits = tensors.here()
            column.append((features, logits.double().softmax(dim=-1), labels))

    before: tuple[list[Arriving], Tensor] | None = None
    for images, labels in batches:
        arriving = []
        for model in models:
            with autocast():
                features = model.backbone.features(images)
                logits = model.backbone.classify(features)
            arriving.append(Arriving(features.float(), logits))
        if before is not None:  # the device is busy with these images meanwhile
            keep(*before)
        before = arriving, labels.cpu()
    assert before is not None, "there are no images"
    keep(*before)
    return [_outputs(column) for column in parts]


def _outputs(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Outputs:
    outputs = Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if not (outputs.features.isfinite().all() and outputs.probabilities.isfinite().all()):
        raise UserError(
            "the model's outputs are not finite: its training has diverged; lower optim.lr or "
            "raise optim.warmup_steps."
        )
    return outputs


def infer_each(
    models: Sequence[SemiModel],
    cell: Cell,
    prepared: Prepared,
    rows: Rows,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outputs]:
    """Run models on the rows' whole images, which are read once, on the cell's device.

    Raises:
        Interrupted: After ``should_stop``, which is asked between batches.
    """
    device = set_up_device(cell.train)
    models = [model.to(device).eval() for model in models]
    batches = eval_batches(prepared, cell.data, rows, device, EVAL_BATCH)
    autocast = make_autocast(cell.train, device, models[0].backbone.embed_dim)
    return run_models(models, until_stopped(batches, should_stop), autocast)


def infer(
    model: SemiModel,
    cell: Cell,
    prepared: Prepared,
    rows: Rows,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outputs:
    """Run one model, as ``infer_each`` does."""
    (outputs,) = infer_each([model], cell, prepared, rows, should_stop)
    return outputs


def probabilities_of(
    model: SemiModel, cell: Cell, prepared: Prepared, rows: Rows, should_stop: Callable[[], bool]
) -> Tensor:
    """Return a model's probabilities of images, ``[N, classes]``; of several processes in each.

    Raises:
        Interrupted: After ``should_stop``.
    """
    own = own_share(len(rows))
    share = torch.zeros(0, prepared.info.num_classes, dtype=torch.float64)
    if own.stop > own.start:
        share = infer(model, cell, prepared, rows[own], should_stop).probabilities
    return gather_rows(share, own.start, len(rows))


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the share of images whose most likely class is right."""
    return (probabilities.argmax(dim=1) == labels).double().mean().item()
