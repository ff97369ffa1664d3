import copy

import pytest
import torch
from small_models import BACKBONES, FLAT, build, draw, draw_noise, mae, scramble, simmim

from semimae.mim.targets import teacher_features


@pytest.mark.parametrize("name", BACKBONES)
def test_they_are_the_normalized_patches_of_the_whole_image(name: str) -> None:
    backbone = build(BACKBONES[name]).backbone
    with torch.no_grad():
        encoded = backbone.encode(backbone.tokenize(draw()))[:, backbone.num_prefix_tokens :]
    mean, var = encoded.mean(-1, keepdim=True), encoded.var(-1, keepdim=True, unbiased=False)
    features = teacher_features(draw(), backbone)
    assert features.shape == (3, 16, backbone.embed_dim)
    assert not features.requires_grad
    torch.testing.assert_close(
        features, (encoded - mean) / (var + 1e-5).sqrt(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("branch", [mae, simmim])
def test_the_teacher_decides_and_is_not_trained(branch: type) -> None:
    model = build(FLAT["vit"], branch(target="teacher_features"))
    teacher, other = copy.deepcopy(model), copy.deepcopy(model)
    scramble(other)
    losses = [model.mim_loss(draw(), draw_noise(), guide) for guide in (teacher, other, None)]
    assert losses[0].item() != losses[1].item()
    assert losses[0].item() == losses[2].item()  # without a teacher the model is its own
    losses[0].backward()
    assert all(p.grad is None for p in teacher.parameters())  # though it requires gradients here
    assert model.backbone.vit.patch_embed.proj.weight.grad.any()  # type: ignore[attr-defined]
