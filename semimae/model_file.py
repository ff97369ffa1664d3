"""The file of a trained model: weights, and what is needed to use them without the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from semimae.backbones.tuning import merged_state
from semimae.backbones.weight_report import WeightReport
from semimae.data.cache import cached_sizes
from semimae.data.crops import EVAL_CROP, center_crop
from semimae.data.images import convert, fit
from semimae.data.store import DatasetInfo
from semimae.model import SemiModel, build_model
from semimae.options.cell import Cell
from semimae.tensors import save_tensors
from semimae.types import Frozen, UserError

METADATA = "semimae"  # key in the safetensors file
WEIGHTS = "model.safetensors"


class ModelInfo(Frozen):
    """The metadata of ``model.safetensors``: how it was trained and on what."""

    format: Literal[2] = 2  # raise it when a field changes its meaning
    cell: Cell
    dataset: DatasetInfo
    # What logits are divided by before their softmax; None: too few validation images to fit it.
    temperature: float | None = Field(default=None, gt=0)
    start: WeightReport | None = None  # what its first weights came from, if not from a seed

    def text(self) -> str:
        """Return it as JSON."""
        return self.model_dump_json(exclude={"start"} if self.start is None else None)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that images are normalized with, in [0, 1]."""
        return self.cell.data.mean or self.dataset.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that images are normalized with."""
        return self.cell.data.std or self.dataset.std


class Trained(NamedTuple):
    """A model for use, on the CPU, and what its file says of it."""

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
        image = convert(image, dataset.channels, dataset.white_level)
        if dataset.packed:
            return fit(image, dataset.image_size)
        if dataset.cache_size is not None:  # what was scored had been scaled once before
            sizes = cached_sizes(np.array([image.size], dtype=np.int32), dataset.cache_size)
            width, height = sizes[0].tolist()
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        return center_crop(pixels, dataset.image_size).permute(1, 2, 0).numpy()


def save_model(
    model: SemiModel,
    cell: Cell,
    dataset: DatasetInfo,
    path: Path,
    temperature: float | None = None,
) -> None:
    """Write weights; the file's metadata is a ``ModelInfo``, so that the file alone can be used.

    Low-rank changes are merged: the file holds the plain architecture.
    """
    info = ModelInfo(cell=cell, dataset=dataset, temperature=temperature, start=model.weight_report)
    # One key only: safetensors writes several in an order that differs between processes.
    save_tensors(merged_state(model), path, metadata={METADATA: info.text()})
    path.chmod(0o644)


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


def open_model(path: Path, *, branch: bool = False) -> Trained:
    """Read a model from a run's folder or from a copy of its ``model.safetensors``.

    Args:
        path: The folder or the file.
        branch: Whether the MIM branch is wanted too, where the file has one.

    Raises:
        UserError: If there is none, or it is damaged or not of this project.
    """
    path = find_weights(path)
    wanted = ("backbone.", "mim.") if branch else ("backbone.",)
    try:
        with safe_open(path, "pt") as file:
            info = _info(file.metadata() or {}, path)
            names = [name for name in file.keys() if name.startswith(wanted)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
        # The last of several phases has no branch.
        mim = info.cell.mim if any(name.startswith("mim.") for name in names) else None
        model = build_model(
            info.cell.backbone.model_copy(update={"weights": None}),  # all are in this file
            mim,
            image_size=info.dataset.image_size,
            channels=info.dataset.channels,
            num_classes=info.dataset.num_classes,
            seed=0,
        )
        model.load_state_dict(tensors)
        model.weight_report = info.start
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    return Trained(model.eval(), info)


def _info(metadata: Mapping[str, str], path: Path) -> ModelInfo:
    if METADATA not in metadata:
        raise UserError(
            f"{path} does not say what it is: another tool or an earlier version wrote it; give "
            "the model.safetensors of a run of this version."
        )
    try:
        return ModelInfo.model_validate_json(metadata[METADATA])
    except ValidationError as error:
        raise UserError(
            f"{path} is of another version ({error.error_count()} fields differ); use it with "
            "that version, or train again."
        ) from None
