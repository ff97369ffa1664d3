"""Pseudo mixup against a loop over pairs."""

import pytest
import torch

from semimae.losses import consistency_loss
from semimae.methods.mixup import pseudo_mixup
from semimae.mixing import rectangles
from semimae.types import PseudoLabels


def example(size: int = 12) -> tuple[torch.Tensor, PseudoLabels, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 1, 8, 8, generator=generator)
    confidence = torch.rand(size, generator=generator) * 0.8 + 0.2
    labels = torch.randint(0, 5, (size,), generator=generator)
    pseudo = PseudoLabels(labels, confidence, (confidence >= 0.7).float())
    return images, pseudo, torch.rand(size, 4, generator=generator)


def test_every_image_is_a_mean_or_a_paste_of_two_in_proportion_to_their_confidences() -> None:
    images, pseudo, noise = example()
    mixed, labels = pseudo_mixup(images, pseudo, noise)
    assert labels.other_labels is not None
    assert labels.share is not None
    kinds = set()
    for i in range(len(images)):
        partners = []
        for j in range(len(images)):
            share = (pseudo.confidence[i] / (pseudo.confidence[i] + pseudo.confidence[j])).item()
            blend = share * images[i] + (1 - share) * images[j]
            if i != j and torch.allclose(mixed[i], blend, atol=1e-6):
                assert labels.share[i].item() == pytest.approx(share)
                partners.append(j)
                kinds.add("mixup")
            from_j = mixed[i] == images[j]
            if i != j and bool((from_j | (mixed[i] == images[i])).all()) and from_j.any():
                area = from_j.float().mean().item()
                assert labels.share[i].item() == pytest.approx(1 - area)
                partners.append(j)
                kinds.add("cutmix")
        (j,) = partners
        assert labels.other_labels[i] == pseudo.labels[j]
        surer = i if pseudo.confidence[i] >= pseudo.confidence[j] else j
        assert labels.weight[i] == pseudo.weight[surer]
    assert kinds == {"mixup", "cutmix"}


def test_the_loss_of_a_mixed_image_is_the_mixture_of_two_losses() -> None:
    images, pseudo, noise = example()
    _, labels = pseudo_mixup(images, pseudo, noise)
    assert labels.other_labels is not None
    assert labels.share is not None
    logits = torch.randn(len(images), 5)
    log_probs = logits.log_softmax(dim=1)
    expected = 0.0
    for i in range(len(images)):
        share = labels.share[i].item()
        first, second = log_probs[i, labels.labels[i]], log_probs[i, labels.other_labels[i]]
        expected -= labels.weight[i].item() * (share * first + (1 - share) * second).item()
    got = consistency_loss(logits, labels)
    assert got.item() == pytest.approx(expected / len(images), rel=1e-5)
    rows = labels.weight.nonzero().squeeze(1)
    assert consistency_loss(logits[rows], labels, rows).item() == pytest.approx(
        got.item(), rel=1e-5
    )


def test_a_rectangle_in_the_middle_covers_the_share_of_the_other_image() -> None:
    covered = rectangles(torch.tensor([0.75, 0.5, 1.0]), torch.full((3, 2), 0.5), 64, 64)
    areas = covered.float().mean(dim=(1, 2)).tolist()
    assert areas == pytest.approx([0.25, 0.5, 0.0], abs=0.03)


def test_a_single_image_meets_only_itself() -> None:
    images, pseudo, noise = example(1)
    mixed, labels = pseudo_mixup(images, pseudo, noise)
    assert torch.allclose(mixed, images)
    assert labels.weight.tolist() == pseudo.weight.tolist()
