"""A trained model, opened from its file alone."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from semimae.data.cache import cached_sizes
from semimae.data.crops import EVAL_CROP, center_crop
from semimae.data.images import convert, fit
from semimae.engine.model_info import METADATA, ModelInfo
from semimae.model import SemiModel, build_model
from semimae.types import UserError

WEIGHTS = "model.safetensors"


class Trained(NamedTuple):
    """A model for use, without its MIM branch, on the CPU; and what its file says of it."""

    model: SemiModel
    info: ModelInfo

    @property
    def center(self) -> float:
        """The share of an image's shorter side that the model sees, as in its evaluation."""
        return 1.0 if self.info.dataset.packed else EVAL_CROP

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Decode an image and make of it what the model was scored on: ``[S, S, C]``.

        Raises:
            Exception: Whatever PIL raises on damaged data.
        """
        dataset = self.info.dataset
        image = convert(image, dataset.channels)
        if dataset.packed:
            return fit(image, dataset.image_size)
        if dataset.cache_size is not None:  # what was scored had been scaled once before
            sizes = cached_sizes(np.array([image.size], dtype=np.int32), dataset.cache_size)
            width, height = sizes[0].tolist()
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        return center_crop(pixels, dataset.image_size).permute(1, 2, 0).numpy()


class Classifier(nn.Module):
    """A model that normalizes its images itself: all that leaves this project is made of it."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.backbone: nn.Module = trained.model.backbone  # type: ignore[assignment]
        for name in ("mean", "std"):
            level = torch.tensor(getattr(trained.info, name)).mul(255).view(1, -1, 1, 1)
            self.register_buffer(name, level)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images ``[B, S, S, C]`` to what the backbone takes: ``[B, C, S, S]``."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images ``[B, S, S, C]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.backbone(self.normalize(images))
        return logits


def find_weights(path: Path) -> Path:
    """Return the file of weights that a path means: itself, or that of a run's folder.

    Raises:
        UserError: If there is none.
    """
    candidates = (path, path / "train" / WEIGHTS, path / WEIGHTS)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{path} holds no trained model, or not yet; give a run's folder, such as "
        f"runs/headline, or its train/{WEIGHTS}."
    )


def open_model(path: Path) -> Trained:
    """Read a model from a run's folder or from a copy of its ``model.safetensors``.

    Raises:
        UserError: If there is none, or it is damaged or not of this project.
    """
    path = find_weights(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if name.startswith("backbone.")]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
        if METADATA not in metadata:
            raise UserError(
                f"{path} does not say what it is: other tools or an earlier version wrote it; give "
                "the model.safetensors of a run of this version."
            )
        info = ModelInfo.model_validate_json(metadata[METADATA])
        model = build_model(
            info.cell.backbone.model_copy(update={"weights": None}),  # all are in this file
            None,
            image_size=info.dataset.image_size,
            channels=info.dataset.channels,
            num_classes=info.dataset.num_classes,
            mask_ratio=None,
            seed=0,
        )
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    except ValidationError as error:
        raise UserError(
            f"{path} is of another version ({error.error_count()} fields differ); use it with "
            "that version, or train again."
        ) from None
    return Trained(model.eval().requires_grad_(False), info)
