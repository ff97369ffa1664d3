"""Classifiers on frozen features: linear and nearest neighbors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semimae.calibration import tempered
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.device import set_up_device
from semimae.engine.infer import Outputs, infer
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
) -> Probed:
    """Evaluate a trained model on the test set without changing its weights.

    The protocols are ``classifier`` (the model's own), ``calibrated`` (the same with temperature
    scaling, if the model has a temperature), ``linear_probe`` (logistic regression on standardized
    features of the labeled images, with the L2 penalty chosen on the validation split) and ``knn``
    (votes of the nearest labeled images). Features are those that the classifier gets. With
    ``linear_probe.trained``, there are also ``batch_norm_probe`` and ``attentive_probe``.
    """
    device = set_up_device(cell.train)
    if device.type == "mps":  # it has no float64
        device = torch.device("cpu")
    rows = (split.labeled, split.val, split.test(prepared))
    labeled, val, test = (infer(model, cell, prepared, np.asarray(r)) for r in rows)
    bank, bank_labels = labeled.features.to(device), labeled.labels.to(device)
    num_classes = prepared.info.num_classes

    def scores(probabilities: Tensor) -> dict[str, Any]:
        return score(probabilities.cpu().numpy(), test.labels.numpy()).model_dump()

    def scaled(outputs: Outputs) -> Tensor:
        return standardize(outputs.features.to(device), bank)

    best = (-1.0, 0.0, torch.empty(0))  # accuracy on the validation split, penalty, weights
    for l2 in sorted(config.l2, reverse=True):  # ties go to the stronger penalty
        weight = fit_linear(scaled(labeled), bank_labels, num_classes, l2, config.max_iter)
        predicted = linear_probabilities(weight, scaled(val)).argmax(dim=1).cpu()
        accuracy = (predicted == val.labels).double().mean().item()
        if accuracy > best[0]:
            best = (accuracy, l2, weight)
    neighbors = knn_probabilities(
        test.features.to(device),
        bank,
        bank_labels,
        num_classes,
        config.knn_k,
        config.knn_temperature,
    )
    calibrated = tempered(test.probabilities, temperature)
    linear = linear_probabilities(best[2], scaled(test))
    protocols = {
        "classifier": scores(test.probabilities),
        **({} if temperature is None else {"calibrated": scores(calibrated)}),
        "linear_probe": scores(linear),
        "knn": scores(neighbors),
    }
    trained = train_probes(model, cell, prepared, split, config) if config.trained else {}
    protocols |= {f"{kind}_probe": scores(found.probabilities) for kind, found in trained.items()}
    shown = examples(calibrated.numpy(), prepared, cell.data, rows[2])
    result: dict[str, Any] = {
        "pool": cell.backbone.pool,
        "l2": best[1],
        "temperature": temperature,
        "protocols": protocols,
        "examples": [example.model_dump() for example in shown],
    }
    if trained:
        result["trained_lr"] = {kind: found.lr for kind, found in trained.items()}
    parts = {
        "test": test._replace(probabilities=calibrated),
        "val": val._replace(probabilities=tempered(val.probabilities, temperature)),
    }
    return Probed(result, _predictions(parts), linear.cpu())


def _predictions(parts: Mapping[str, Outputs]) -> dict[str, NDArray[Any]]:
    """Return the classifier's prediction for each image, for comparing two models image by image.

    Returns:
        For each part, ``PART_label``, ``PART_predicted`` (int32) and ``PART_confidence`` (float32),
        each ``[N]``, in the order of the dataset's rows.
    """
    found = {}
    for name, outputs in parts.items():
        confidence, predicted = outputs.probabilities.max(dim=1)
        found[f"{name}_label"] = outputs.labels.numpy().astype(np.int32)
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
