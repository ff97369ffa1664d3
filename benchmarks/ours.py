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
from semimae.engine.bad_steps import BadSteps
from semimae.engine.checkpoint import TrainState
from semimae.engine.device import make_autocast, set_up_device, set_up_model
from semimae.engine.optim import build_optimizer, clip_gradients, ema_update
from semimae.engine.step import Place, TrainStep
from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.registry import build_method
from semimae.mim.mae import MAE
from semimae.model import model_of
from semimae.options.cell import Cell
from semimae.types import Batch, Step


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
    """A cell that makes the steps of the training loop, all on one batch."""

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
        state = TrainState(
            self.model, self.ema, self.method, self.optimizer, bad_steps=BadSteps(self.device)
        )
        self.state, self.train_step = state, TrainStep(state, cell.optim, self.autocast, most_bad=1)
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
    def made(self) -> Step:
        """What all steps use."""
        return self.views(0)

    @property
    def batch(self) -> Batch:
        """The batch of it."""
        return self.made.batch

    def step(self) -> None:
        """Make one training step, with all that the loop does between two rows but for the data."""
        place = Place(1, self.cell.optim.lr, self.cell.train.ema_decay)
        self.state.meter.include(self.train_step(self.made, place))

    def update(self) -> None:
        """Clip, update, move the average, and no more."""
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
