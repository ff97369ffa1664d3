"""Temperature scaling: one number that calibrates the probabilities of a trained model."""

import math

from torch import Tensor

MIN_IMAGES = 30  # validation images that fitting a temperature needs; see docs/method.md
_LOWEST, _HIGHEST = -4.0, 4.0  # logarithm of the temperature: 0.018 to 55
_HALVINGS = 40


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float | None:
    """Return the temperature that maximizes the likelihood of the true classes.

    Its logarithm has a standard normal prior, which a few images outweigh. Without the prior, a
    model that classifies all images correctly would become certain of everything.

    Args:
        probabilities: ``[N, classes]``, the model's predictions.
        labels: ``[N]``, true classes of images that it was not trained on.

    Returns:
        The temperature, or ``None`` with fewer than ``MIN_IMAGES`` images.

    Source: arXiv:1706.04599, section 4.2; the prior is ours.
    """
    if len(labels) < MIN_IMAGES:
        return None
    logits = _logits(probabilities)
    true = logits.gather(1, labels.unsqueeze(1)).squeeze(1)

    def slope(log_t: float) -> float:
        """Return the derivative of the negative log-posterior."""
        inverse = math.exp(-log_t)
        expected = ((logits * inverse).softmax(dim=1) * logits).sum(dim=1)
        return inverse * (true - expected).sum().item() + log_t

    low, high = _LOWEST, _HIGHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return math.exp((low + high) / 2)


def tempered(probabilities: Tensor, temperature: float | None) -> Tensor:
    """Return ``softmax(logits / temperature)`` of the logits behind probabilities ``[N, classes]``.

    ``None`` returns the probabilities unchanged.
    """
    if temperature is None:
        return probabilities
    return (_logits(probabilities) / temperature).softmax(dim=1)


def _logits(probabilities: Tensor) -> Tensor:
    """Return logits, up to a constant per image."""
    return probabilities.double().clamp(min=1e-300).log()
