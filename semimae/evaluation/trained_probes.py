"""Probes that are trained by gradient descent on frozen features, as in published protocols."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from torch.nn import functional

from semimae.data.augment import to_float
from semimae.data.evaluation import eval_batches, normalization
from semimae.data.reader import ImageReader
from semimae.data.sampling import sample_rows
from semimae.data.split import Split
from semimae.data.store import Prepared, Rows
from semimae.engine.device import make_autocast
from semimae.engine.infer import EVAL_BATCH
from semimae.engine.optim import cosine_lr
from semimae.model import SemiModel
from semimae.options.cell import Cell
from semimae.options.evaluation import LinearProbeConfig
from semimae.random import generator
from semimae.types import UserError

_HEAD_WIDTH = 64  # of the attentive probe, as in ViT


class TrainedProbe(NamedTuple):
    """What a probe says of the test images, and the learning rate that validation chose."""

    probabilities: Tensor  # [N, classes], float64, on the CPU
    lr: float


def batch_norm_probe(dim: int, num_classes: int) -> nn.Module:
    """Return a linear classifier behind batch normalization without scale and shift.

    Source: arXiv:2111.06377 (MAE), appendix A.1; first weights as in its published code.
    """
    norm, linear = nn.BatchNorm1d(dim, eps=1e-6, affine=False), nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(norm, linear)


def attentive_probe(dim: int, num_classes: int) -> nn.Module:
    """Return a linear classifier of what a learned query finds by attention over the tokens.

    Attention is followed by an MLP, so that this is a block whose only query is learned.

    Source: arXiv:2404.08471 (V-JEPA), which calls it attentive probing.
    """
    heads = math.gcd(dim, max(1, dim // _HEAD_WIDTH))
    pool = AttentionPoolLatent(dim, num_heads=heads, norm_layer=nn.LayerNorm)
    return nn.Sequential(pool, nn.Linear(dim, num_classes))


_PROBES: dict[str, Callable[[int, int], nn.Module]] = {
    "batch_norm": batch_norm_probe,
    "attentive": attentive_probe,
}


def train_probes(
    model: SemiModel, cell: Cell, prepared: Prepared, split: Split, config: LinearProbeConfig
) -> dict[str, TrainedProbe]:
    """Train the probes of ``linear_probe.trained`` on the labeled images, seen whole.

    All learning rates of all probes learn from the same batches, so that the backbone runs once
    per batch. Of each probe, the learning rate with the highest validation accuracy is kept, or
    with the highest one over all folds, each of which is held out once; of equal ones the lowest.
    The optimizer is AdamW without weight decay, with a cosine schedule.

    Returns:
        One entry per probe.

    Raises:
        UserError: If the attentive probe is asked for a backbone without patches.
    """
    backbone: Any = model.backbone
    if "attentive" in config.trained and not backbone.has_patches:
        raise UserError(
            "linear_probe.trained: attentive needs the tokens of patches, which a convolutional "
            "network does not have; remove it."
        )
    device = next(model.parameters()).device
    autocast = make_autocast(cell.train, device, backbone.embed_dim)
    model.eval()

    @torch.no_grad()
    def seen(images: Tensor) -> dict[str, Tensor]:
        """Return what each kind of probe gets: pooled features, or the tokens of the patches."""
        found = {}
        with autocast():
            if "batch_norm" in config.trained:
                found["batch_norm"] = backbone.features(images)
            if "attentive" in config.trained:
                tokens = backbone.encode(backbone.tokenize(images))
                found["attentive"] = tokens[:, backbone.num_prefix_tokens :]
        return {kind: tensor.float() for kind, tensor in found.items()}

    num_classes = prepared.info.num_classes

    def trained(on: Split) -> dict[tuple[str, float], nn.Module]:
        probes: dict[tuple[str, float], nn.Module] = {}
        for kind in config.trained:
            for lr in sorted(config.trained_lr):
                with torch.random.fork_rng(devices=[]):  # nn.init draws from the global generator
                    torch.manual_seed(generator(cell.seed, "probe", kind).initial_seed())
                    probes[kind, lr] = _PROBES[kind](backbone.embed_dim, num_classes)
                    probes[kind, lr].to(device).train()
        _fit(probes, seen, config, _labeled(cell, prepared, on, config, device))
        return probes

    @torch.no_grad()
    def said(chosen: dict[tuple[str, float], nn.Module], rows: Rows) -> dict[Any, Tensor]:
        parts: dict[Any, list[Tensor]] = {key: [] for key in chosen}
        for images, _ in eval_batches(prepared, cell.data, rows, device, EVAL_BATCH):
            inputs = seen(images)
            for key, probe in chosen.items():
                parts[key].append(probe.eval()(inputs[key[0]]).cpu().double().softmax(dim=-1))
        return {key: torch.cat(part) for key, part in parts.items()}

    right: Counter[tuple[str, float]] = Counter()
    for part in [split.without_fold(n, prepared) for n in range(len(split.folds))] or [split]:
        probes, val = trained(part), np.asarray(part.val, dtype=np.int64)
        labels = torch.from_numpy(prepared.labels[val])
        for key, probabilities in said(probes, val).items():
            right[key] += int((probabilities.argmax(dim=1) == labels).sum())
    if split.folds:
        probes = trained(split)
    best = {  # of equals the first, whose learning rate is the lowest
        kind: max((lr for k, lr in probes if k == kind), key=lambda lr: right[kind, lr])
        for kind in config.trained
    }
    found = said({(kind, lr): probes[kind, lr] for kind, lr in best.items()}, split.test(prepared))
    return {kind: TrainedProbe(p, lr) for (kind, lr), p in found.items()}


def _labeled(
    cell: Cell, prepared: Prepared, split: Split, config: LinearProbeConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of all steps: normalized whole images and their labels."""
    rows = np.asarray(split.labeled, dtype=np.int64)
    reader = ImageReader(prepared, cell.data, rows, device)
    mean, std = normalization(prepared, cell.data)
    for step in range(config.trained_steps):
        drawn = sample_rows(rows, config.trained_batch_size, cell.seed, "probe", step)
        labels = torch.from_numpy(prepared.labels[drawn]).to(device)
        yield to_float(reader.whole(drawn), mean, std), labels


def _fit(
    probes: dict[tuple[str, float], nn.Module],
    seen: Callable[[Tensor], dict[str, Tensor]],
    config: LinearProbeConfig,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> None:
    """Train each probe with its own learning rate, all on the same batches."""
    optimizers = {
        key: torch.optim.AdamW(probe.parameters(), weight_decay=0.0)
        for key, probe in probes.items()
    }
    for step, (images, labels) in enumerate(batches):
        inputs = seen(images)
        for (kind, lr), probe in probes.items():
            optimizer = optimizers[kind, lr]
            for group in optimizer.param_groups:
                group["lr"] = cosine_lr(
                    step, lr=lr, min_lr=0.0, warmup=0, total=config.trained_steps
                )
            optimizer.zero_grad()
            functional.cross_entropy(probe(inputs[kind]), labels).backward()
            optimizer.step()
