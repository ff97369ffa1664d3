"""Export a trained model to formats that other tools read, and verify each export."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim

from semimae.inference.classifier import Classifier
from semimae.inference.timm_folder import CONFIG, load_timm, write_timm
from semimae.model_file import WEIGHTS, Trained
from semimae.random import uniform
from semimae.types import UserError

ONNX, PROGRAM = "model.onnx", "model.pt2"
_DYNAMIC = {"images": {0: Dim("batch")}}


class Format(NamedTuple):
    """A format: the function that writes it to a folder, and the files that it consists of."""

    write: Callable[[Trained, Path], None]
    files: tuple[str, ...]


def export(trained: Trained, name: str, folder: Path) -> None:
    """Write a model in the format ``name``, a key of ``FORMATS``, and compare the outputs.

    Raises:
        UserError: If the format does not support the model, or the export computes different
            outputs. Its files are then removed.
    """
    write, files = FORMATS[name]
    try:
        write(trained, folder)
    except BaseException:
        for file in files:
            (folder / file).unlink(missing_ok=True)
        raise


def export_timm(trained: Trained, folder: Path) -> None:
    """Write a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""
    write_timm(trained, folder)
    model, classifier = load_timm(folder), Classifier(trained).eval()
    images = _noise(trained, 3)
    _compare("timm", model(classifier.normalize(images)), classifier(images), 1e-5)


def export_onnx(trained: Trained, folder: Path) -> None:
    """Write ``model.onnx``, which maps uint8 images ``[B, S, S, C]`` to logits, for any B."""
    import onnxruntime

    for chatty in ("onnxscript", "onnx_ir"):  # they report what they do not optimize
        logging.getLogger(chatty).setLevel(logging.ERROR)
    classifier = Classifier(trained).eval()
    torch.onnx.export(
        classifier,
        (_noise(trained, 2),),
        folder / ONNX,
        dynamo=True,
        dynamic_shapes=_DYNAMIC,
        input_names=["images"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    images = _noise(trained, 3)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    _compare("onnxruntime", torch.from_numpy(logits), classifier(images), 1e-4)


def export_program(trained: Trained, folder: Path) -> None:
    """Write ``model.pt2`` for ``torch.export.load``. Inputs and outputs are those of ONNX."""
    classifier = Classifier(trained).eval()
    program = torch.export.export(classifier, (_noise(trained, 2),), dynamic_shapes=_DYNAMIC)
    torch.export.save(program, folder / PROGRAM)
    loaded = torch.export.load(folder / PROGRAM).module()
    images = _noise(trained, 3)
    _compare("torch.export", loaded(images), classifier(images), 1e-5)


def _noise(trained: Trained, count: int) -> Tensor:
    """Return uint8 images ``[count, S, S, C]``."""
    dataset = trained.info.dataset
    shape = (count, dataset.image_size, dataset.image_size, dataset.channels)
    return uniform(shape, 0, "export").mul(256).to(torch.uint8)


def _compare(tool: str, theirs: Tensor, ours: Tensor, tolerance: float) -> None:
    """Check that logits agree. For logits above 1, the tolerance is relative."""
    difference = (theirs - ours).abs().max().item() / max(1.0, ours.abs().max().item())
    if not difference <= tolerance:
        raise UserError(
            f"{tool} computes different logits from the model: they differ by {difference:.1e}; "
            f"allowed: up to {tolerance:g}."
        )


FORMATS = {
    "timm": Format(export_timm, (WEIGHTS, CONFIG)),
    "onnx": Format(export_onnx, (ONNX,)),
    "torch": Format(export_program, (PROGRAM,)),
}
