"""Pictures of the MIM branch's predictions."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semimae.data.evaluation import eval_batches, normalization
from semimae.data.store import Prepared
from semimae.model import SemiModel
from semimae.options.cell import Cell
from semimae.patches import gather_patches, patchify, scatter_patches, unpatchify
from semimae.random import uniform

Pictures = NDArray[np.uint8]  # [N, H, W, C]


class Reconstructions(NamedTuple):
    """Three versions of the same images."""

    original: Pictures
    masked: Pictures  # hidden patches are gray
    reconstructed: Pictures  # hidden patches are predicted, visible ones are original


@torch.no_grad()
def reconstruct(
    model: SemiModel, cell: Cell, prepared: Prepared, rows: NDArray[np.int64]
) -> Reconstructions | None:
    """Hide patches of some images and predict them.

    Predictions of normalized pixels get the mean and the variance of the patch that they replace,
    as in the figures of arXiv:2111.06377.

    Returns:
        The pictures, or ``None`` if the branch does not predict pixels.
    """
    mim = model.mim
    if mim is None or mim.options.target not in ("pixels", "norm_pixels"):
        return None
    device = next(model.parameters()).device
    images, _ = next(eval_batches(prepared, cell.data, rows, device, len(rows)))
    noise = uniform((len(rows), model.backbone.num_patches), cell.seed, "pictures").to(device)
    prediction, mask = mim.reconstruct(model.backbone, images, noise)
    patches = patchify(images, model.backbone.patch_size)
    hidden = gather_patches(patches, mask.ids_hide)
    if mim.options.target == "norm_pixels":
        var, mean = torch.var_mean(hidden, dim=-1, keepdim=True)
        prediction = prediction * (var + 1e-6).sqrt() + mean
    visible, ids = gather_patches(patches, mask.ids_keep), torch.cat(mask, dim=1)
    channels = model.backbone.channels
    mean_std = normalization(prepared, cell.data)

    def picture(of_hidden: Tensor) -> Pictures:
        merged = scatter_patches(torch.cat([visible, of_hidden.to(visible.dtype)], dim=1), ids)
        return _to_uint8(unpatchify(merged, model.backbone.patch_size, channels), *mean_std)

    return Reconstructions(picture(hidden), picture(torch.zeros_like(hidden)), picture(prediction))


def _to_uint8(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Pictures:
    scale, shift = (images.new_tensor(v).reshape(-1, 1, 1) for v in (std, mean))
    pixels = ((images * scale + shift).clamp(0, 1) * 255).round().to(torch.uint8)
    array: Pictures = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return array
