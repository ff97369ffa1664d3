"""The weight of the reconstruction: fixed, or following the gradients of the loss terms."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semimae.options.mim import LARGEST_WEIGHT, MIMOptions


class ReconstructionWeight(nn.Module):
    """The weight of the term ``reconstruction``.

    With ``mim.weighting: gradient`` it keeps the gradient of that term in the encoder in
    proportion to that of all others: it is ``mim.gradient_ratio`` times the running mean of the
    norm of the others' weighted sum over that of the reconstruction, and at most
    ``LARGEST_WEIGHT``.

    Source: the adaptive weight of arXiv:2012.09841 (VQGAN), equation 7, is such a ratio of norms,
    of one layer and one step. Ours are of the layers that the terms share, as in arXiv:1711.02257
    (GradNorm, section 3), here the encoder, and means over steps.
    """

    balanced: Tensor
    norms: Tensor

    def __init__(self, options: MIMOptions) -> None:
        super().__init__()
        self.options = options
        self.every = options.weighting_every if options.weighting == "gradient" else 0
        if self.every:
            self.register_buffer("balanced", torch.tensor(options.lambda_mim))
            # Of the others and of the reconstruction. Both means begin at 0 and lack the same
            # share of their value, so that their ratio needs no correction.
            self.register_buffer("norms", torch.zeros(2))

    @property
    def value(self) -> float | Tensor:
        """What the loss term is multiplied by; a scalar on the device if it moves."""
        return self.balanced if self.every else self.options.lambda_mim

    def observe(
        self, gradients: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]
    ) -> None:
        """Take note of the gradient of each term without its weight, vectors of equal length."""
        ours = gradients["reconstruction"]
        others = torch.zeros_like(ours)
        for name, gradient in gradients.items():
            if name != "reconstruction":
                others += weights[name] * gradient
        pace = 1 - self.options.weighting_momentum
        self.norms.lerp_(torch.stack([others.norm(), ours.norm()]), pace)
        weight = self.options.gradient_ratio * self.norms[0] / self.norms[1]
        weight = weight.clamp(max=LARGEST_WEIGHT)
        self.balanced.copy_(torch.where(self.norms[1] > 0, weight, self.balanced))
