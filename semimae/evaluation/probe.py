"""Classifiers on frozen features: linear and nearest neighbors."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semimae.calibration import tempered
from semimae.data.split import Split, as_rows
from semimae.data.store import Prepared, Rows
from semimae.engine.device import set_up_device
from semimae.engine.infer import HeldOut, Outputs, infer
from semimae.evaluation.examples import examples
from semimae.evaluation.metrics import score
from semimae.evaluation.trained_probes import train_probes
from semimae.model import SemiModel
from semimae.options.cell import Cell
from semimae.options.evaluation import LinearProbeConfig

_SIMILARITIES = 2**26  # float64 values held in memory at the same time: 512 MiB


class Probed(NamedTuple):
    """The result of an evaluation."""

    # {"pool", "l2", "temperature", "protocols": {name: Scores}, "examples": [Example]}, the latter
    # of the classifier; plain JSON
    scores: dict[str, Any]
    predictions: dict[str, NDArray[Any]]  # see ``_predictions``
    linear_probe: Tensor  # [N, classes], its probabilities of the test images


def probe(
    model: SemiModel,
    cell: Cell,
    prepared: Prepared,
    split: Split,
    config: LinearProbeConfig,
    temperature: float | None = None,
    held_out: HeldOut | None = None,
) -> Probed:
    """Evaluate a trained model on the test set without changing its weights.

    The protocols are ``classifier`` (the model's own), ``calibrated`` (the same with temperature
    scaling, if the model has a temperature), ``linear_probe`` (logistic regression on standardized
    features of the labeled images, with the L2 penalty chosen on the validation split, or on the
    folds of the labeled images) and ``knn`` (votes of the nearest labeled images). Features are
    those that the classifier gets. With ``linear_probe.trained``, there are also
    ``batch_norm_probe`` and ``attentive_probe``.

    Args:
        model: The model.
        cell: Its cell.
        prepared: The images.
        split: Its split.
        config: Of the linear probe and k-NN.
        temperature: That calibrates the classifier's probabilities.
        held_out: What is said of the images of all folds, if there are any.
    """
    device = set_up_device(cell.train)
    if device.type == "mps":  # it has no float64
        device = torch.device("cpu")
    test_rows = split.test(prepared)
    labeled, *val, test = (
        infer(model, cell, prepared, np.asarray(rows))
        for rows in (split.labeled, *([split.val] if split.val else []), test_rows)
    )
    bank, bank_labels = labeled.features.to(device), labeled.labels.to(device)
    num_classes = prepared.info.num_classes

    def scores(probabilities: Tensor) -> dict[str, Any]:
        return score(probabilities.cpu().numpy(), test.labels.numpy()).model_dump()

    def scaled(outputs: Outputs) -> Tensor:
        return standardize(outputs.features.to(device), bank)

    x = scaled(labeled)

    @functools.cache
    def weights(l2: float) -> Tensor:
        return fit_linear(x, bank_labels, num_classes, l2, config.max_iter)

    def num_right(l2: float) -> int:
        """Return how many images are classified right that were held out of the fit."""
        right = 0
        for outputs in val:
            predicted = linear_probabilities(weights(l2), scaled(outputs)).argmax(dim=1).cpu()
            right += int((predicted == outputs.labels).sum())
        for fold in split.folds:
            out = torch.from_numpy(np.isin(split.labeled, fold)).to(device)
            weight = fit_linear(x[~out], bank_labels[~out], num_classes, l2, config.max_iter)
            predicted = linear_probabilities(weight, x[out]).argmax(dim=1)
            right += int((predicted == bank_labels[out]).sum())
        return right

    best = max(sorted(config.l2, reverse=True), key=num_right)  # ties go to the stronger penalty
    neighbors = knn_probabilities(
        test.features.to(device),
        bank,
        bank_labels,
        num_classes,
        config.knn_k,
        config.knn_temperature,
    )
    calibrated = tempered(test.probabilities, temperature)
    linear = linear_probabilities(weights(best), scaled(test))
    protocols = {
        "classifier": scores(test.probabilities),
        **({} if temperature is None else {"calibrated": scores(calibrated)}),
        "linear_probe": scores(linear),
        "knn": scores(neighbors),
    }
    trained = train_probes(model, cell, prepared, split, config) if config.trained else {}
    protocols |= {f"{kind}_probe": scores(found.probabilities) for kind, found in trained.items()}
    shown = examples(calibrated.numpy(), prepared, cell.data, test_rows)
    result: dict[str, Any] = {
        "pool": cell.backbone.pool,
        "l2": best,
        "temperature": temperature,
        "protocols": protocols,
        "examples": [example.model_dump() for example in shown],
    }
    if trained:
        result["trained_lr"] = {kind: found.lr for kind, found in trained.items()}
    parts = {"test": (calibrated, test_rows)}
    for outputs in val:
        parts["val"] = tempered(outputs.probabilities, temperature), as_rows(split.val)
    if held_out is not None:
        parts["val"] = tempered(held_out.probabilities, temperature), held_out.rows
    return Probed(result, _predictions(parts, prepared), linear.cpu())


def _predictions(
    parts: Mapping[str, tuple[Tensor, Rows]], prepared: Prepared
) -> dict[str, NDArray[Any]]:
    """Return the classifier's prediction for each image, for comparing two models image by image.

    Args:
        parts: Probabilities ``[N, classes]`` and rows ``[N]`` of the images of each.
        prepared: The images.

    Returns:
        For each part, ``PART_row`` (int64), ``PART_label``, ``PART_predicted`` (int32) and
        ``PART_confidence`` (float32), each ``[N]``, in the order of the dataset's rows.
    """
    found = {}
    for name, (probabilities, rows) in parts.items():
        confidence, predicted = probabilities.max(dim=1)
        found[f"{name}_row"] = rows
        found[f"{name}_label"] = prepared.labels[rows].astype(np.int32)
        found[f"{name}_predicted"] = predicted.numpy().astype(np.int32)
        found[f"{name}_confidence"] = confidence.numpy().astype(np.float32)
    return found


def fit_linear(
    features: Tensor, labels: Tensor, num_classes: int, l2: float, max_iter: int
) -> Tensor:
    """Fit multinomial logistic regression by L-BFGS to convergence, from zero weights.

    Minimizes ``mean cross-entropy + l2 / 2 * |W|^2``; the bias is not penalized.

    Args:
        features: ``[N, D]``, standardized.
        labels: ``[N]``.
        num_classes: Number of classes.
        l2: L2 penalty.
        max_iter: Iterations.

    Returns:
        ``[D + 1, num_classes]``, with the bias in the last row.
    """
    x = functional.pad(features.double(), (0, 1), value=1.0)
    weight = torch.zeros(
        x.shape[1], num_classes, dtype=x.dtype, device=x.device, requires_grad=True
    )
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=max_iter, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(x @ weight, labels) + l2 / 2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


def standardize(features: Tensor, reference: Tensor) -> Tensor:
    """Scale features by the mean and standard deviation of a reference set ``[N, D]``.

    It corresponds to the affine-free batch norm before the linear classifier in arXiv:2111.06377.
    """
    std = reference.std(dim=0, correction=0).clamp(min=1e-6)
    return (features - reference.mean(dim=0)) / std


def linear_probabilities(weight: Tensor, features: Tensor) -> Tensor:
    """Return class probabilities ``[N, classes]`` of a classifier from ``fit_linear``."""
    return (features.double() @ weight[:-1] + weight[-1]).softmax(dim=-1)


def knn_probabilities(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    k: int,
    temperature: float,
) -> Tensor:
    """Return class probabilities ``[N, classes]`` by weighted votes of the nearest neighbors.

    The ``k`` labeled features with the highest cosine similarity s vote with weight
    ``exp(s / temperature)``.

    Source: arXiv:1805.01978, section 3.4.
    """
    queries = functional.normalize(features.double(), dim=1)
    keys = functional.normalize(bank.double(), dim=1).T
    rows = max(1, _SIMILARITIES // len(bank))
    parts = [(part @ keys).topk(min(k, len(bank)), dim=1) for part in queries.split(rows)]
    nearest = torch.cat([part.values for part in parts])  # [N, k]
    index = torch.cat([part.indices for part in parts])
    # Relative to the nearest, whose vote is 1: no underflow or overflow.
    votes = ((nearest - nearest[:, :1]) / temperature).exp()
    classes = torch.zeros(len(features), num_classes, dtype=votes.dtype, device=votes.device)
    classes.scatter_add_(1, bank_labels[index], votes)
    return classes / classes.sum(dim=1, keepdim=True)
