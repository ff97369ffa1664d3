"""The gradient of a step's global batch, over micro-batches and processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from semimae.distributed import add_up, world
from semimae.engine.diagnostics import term_gradients
from semimae.methods.base import Method
from semimae.model import SemiModel
from semimae.types import Batch, LossInputs


class Gradients:
    """Computes the gradient of a model's trainable parameters."""

    def __init__(self, model: SemiModel, method: Method) -> None:
        self.model, self.method = model, method
        self.parameters = [p for p in model.parameters() if p.requires_grad]  # the walk is slow
        self.used: list[nn.Parameter] | None = None  # those that have a gradient in some process

    def compute(
        self,
        teacher: SemiModel,
        batch: Batch,
        autocast: Callable[[], torch.autocast],
        measured: dict[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], LossInputs]:
        """Set ``grad`` of all parameters to that of the global batch's weighted loss.

        Args:
            teacher: The moving average.
            batch: This process's share of the global batch.
            autocast: Makes the context of the forward passes.
            measured: If given, receives each term's gradient in the encoder.

        Returns:
            The global batch's loss terms and their weighted sum ``total``, and what they were
            computed from.
        """
        model, method = self.model, self.method
        for parameter in self.parameters:
            parameter.grad = None
        with autocast():
            inputs = method.label(model, teacher, batch)
        values: dict[str, Tensor] = {}
        for micro in inputs.micro_batches():
            with autocast():
                losses = method.losses(model, teacher, micro)
            total = torch.stack([method.weights[k] * v.float() for k, v in losses.items()]).sum()
            if measured is not None:
                for name, gradient in term_gradients(losses, model).items():
                    measured[name] = measured[name] + gradient if name in measured else gradient
            if total.requires_grad:  # not where a share of the batch is empty
                total.backward()
            for name, value in (losses | {"total": total}).items():
                value = value.detach()
                values[name] = values[name] + value if name in values else value
        if world().size == 1:
            return values, inputs
        if measured is not None:
            for gradient in measured.values():
                add_up(gradient)
        summed = self._add_up(torch.stack([v.float() for v in values.values()]))
        return dict(zip(values, summed.unbind(), strict=True)), inputs

    def _add_up(self, values: Tensor) -> Tensor:
        """Add up gradients over processes, and some values with them in the same message."""
        if self.used is None:
            # Without a gradient anywhere it must stay None: a zero would let weight decay act.
            has = add_up(torch.tensor([float(p.grad is not None) for p in self.parameters]))
            self.used = [p for p, n in zip(self.parameters, has.tolist(), strict=True) if n]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.used]
        flat = add_up(torch.cat([*(part.flatten() for part in parts), values]))
        *summed, values = flat.split([*(part.numel() for part in parts), len(values)])
        for parameter, gradient in zip(self.used, summed, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return values
