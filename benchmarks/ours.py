"""This project's step and its parts, on one batch."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.settings import CLASSES
from semimae.data.loader import TrainViews
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.device import make_autocast, set_up_device, set_up_model
from semimae.engine.optim import build_optimizer, clip_gradients, ema_update
from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.registry import build_method
from semimae.mim.mae import MAE
from semimae.model import model_of
from semimae.options.cell import Cell
from semimae.types import Batch


class ForcedRule(nn.Module):
    """Rejects the first share of the images, whatever the predictions are."""

    weights: ClassVar[dict[str, float]] = {}
    labels_by_aligned = True

    def __init__(self, rejected: float) -> None:
        super().__init__()
        self.rejected = rejected

    def forward(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the weights ``[U]`` and a threshold to log."""
        places = torch.arange(len(probs), device=probs.device)
        return (places >= self.rejected * len(probs)).float(), probs.new_zeros(())


class Ours:
    """A cell that can make steps, as engine.train does between two rows."""

    def __init__(self, cell: Cell, prepared: Prepared, split: Split, rejected: float) -> None:
        self.cell = cell
        self.device = set_up_device(cell.train)
        self.model = model_of(cell, prepared).to(self.device)
        self.autocast = make_autocast(cell.train, self.device, self.model.backbone.embed_dim)
        set_up_model(self.model, cell.train, self.device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        set_up_model(self.ema, cell.train, self.device)
        self.method = build_method(cell.options, CLASSES, split.num_unlabeled)
        if isinstance(self.method, PseudoLabelMethod):
            self.method.rule = ForcedRule(rejected)  # type: ignore[assignment]
        self.method.to(self.device)
        self.optimizer = build_optimizer(self.model, self.model.backbone, cell.optim)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.views = TrainViews(
            prepared,
            split,
            cell.data,
            seed=0,
            batch_size=cell.train.batch_size,
            num_unlabeled=cell.num_unlabeled,
            num_patches=self.model.backbone.num_patches,
            num_steps=cell.train.steps,
            device=self.device,
        )

    @cached_property
    def batch(self) -> Batch:
        """The batch that all steps use."""
        return self.views(0).batch

    def step(self) -> None:
        """Make one training step without reading data."""
        with self.autocast():
            inputs = self.method.label(self.model, self.ema, self.batch)
            losses = self.method.losses(self.model, self.ema, inputs)
        total = torch.stack([self.method.weights[k] * v.float() for k, v in losses.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.update()

    def update(self) -> None:
        """Clip, update, move the average."""
        norm = clip_gradients(self.parameters, self.cell.optim.grad_clip)
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        ema_update(self.ema, self.model, self.cell.train.ema_decay)

    def parts(self) -> dict[str, Callable[[], object]]:
        """Return the parts of a step; forward and backward where there is a backward pass."""
        batch, model = self.batch, self.model
        mae = model.mim
        assert isinstance(mae, MAE)
        mask = mae.mask(batch.mask_noise)
        with torch.no_grad(), self.autocast():
            tokens = model.backbone.tokenize(batch.weak, mask.ids_keep)
            latent = model.backbone.encode(tokens, mask.ids_keep)
        self.step()  # the optimizer has gradients then

        def weak() -> None:
            with torch.no_grad(), self.autocast():
                self.ema(batch.weak)

        def labeled_and_strong() -> None:
            with self.autocast():
                logits = model(torch.cat([batch.labeled, batch.strong]))
                labels = logits.detach().argmax(dim=-1)
                loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()

        def encoder() -> None:
            with self.autocast():
                tokens = model.backbone.tokenize(batch.weak, mask.ids_keep)
                loss = model.backbone.encode(tokens, mask.ids_keep).float().square().mean()
            loss.backward()

        def decoder() -> None:
            with self.autocast():
                loss = mae.decode(latent.detach().requires_grad_(), mask).float().square().mean()
            loss.backward()

        def data() -> None:
            self.views.make(range(1, 2))

        return {
            "weak views, no gradient": weak,
            "labeled and strong views": labeled_and_strong,
            "MAE encoder": encoder,
            "MAE decoder": decoder,
            "clip, AdamW, average": self.update,
            "data": data,
        }
