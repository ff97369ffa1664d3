"""Classify image files."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from semimae.calibration import tempered
from semimae.data.augment import to_float
from semimae.data.images import Progress, decoding_error, mapped, open_file, pillow_warnings
from semimae.engine.device import make_autocast, set_up_device, set_up_model
from semimae.engine.infer import Outputs, run_models
from semimae.model_file import Trained
from semimae.options.train import CellTrain


def predict_files(
    trained: Trained,
    paths: Sequence[str],
    *,
    on_batch: Callable[[list[str], Outputs], None],
    on_bad: Callable[[str, str], None],
    progress: Progress,
    batch_size: int,
    device: str = "auto",
    workers: int = 0,
    on_pixels: Callable[[Sequence[str], Sequence[NDArray[np.uint8]]], None] = lambda paths, of: (
        None
    ),
) -> None:
    """Run a model on image files, decoded as for its evaluation.

    Args:
        trained: The model. It is moved to the device.
        paths: The files.
        on_batch: Called with paths, in order, and the outputs for them. ``labels`` are the
            predicted classes. Probabilities are calibrated if the model has a temperature.
        on_bad: Called with each path that cannot be decoded, and the reason.
        progress: Called with (done, total).
        batch_size: Images per forward pass.
        device: auto, cpu, cuda or mps.
        workers: Threads that decode images. 0: one per core.
        on_pixels: Called before on_batch, with paths and what the model sees, ``[S, S, C]`` each.

    Raises:
        UserError: If the device is not available.
    """
    config = _for_use(trained.info.cell.train, device)
    where = set_up_device(config)
    model = trained.model.to(where)
    set_up_model(model, config, where)
    autocast = make_autocast(config, where, model.backbone.embed_dim)

    def load(place: int) -> NDArray[np.uint8] | str:
        try:
            with open_file(paths[place]) as image:
                return trained.pixels(image)
        except Exception as error:  # damaged data can make Pillow raise any exception
            return decoding_error(error)

    def run(batch: list[tuple[str, NDArray[np.uint8]]]) -> None:
        names, arrays = zip(*batch, strict=True)
        if on_pixels is not None:
            on_pixels(names, arrays)
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(where)
        images = to_float(images, trained.info.mean, trained.info.std)
        unknown = torch.full((len(names),), -1)
        (outputs,) = run_models([model], [(images, unknown)], autocast)
        probabilities = tempered(outputs.probabilities, trained.info.temperature)
        labels = probabilities.argmax(dim=1)
        on_batch(list(names), outputs._replace(probabilities=probabilities, labels=labels))

    waiting: list[tuple[str, NDArray[np.uint8]]] = []
    with pillow_warnings():
        for place, pixels in mapped(load, range(len(paths)), workers, progress):
            if isinstance(pixels, str):
                on_bad(paths[place], pixels)
                continue
            waiting.append((paths[place], pixels))
            if len(waiting) == batch_size:
                run(waiting)
                waiting = []
    if waiting:
        run(waiting)


def _for_use(config: CellTrain, device: str) -> CellTrain:
    """Return the options for computing on this machine, which may differ from training."""
    return config.model_copy(update={"device": device, "threads": 0, "compile": False})
