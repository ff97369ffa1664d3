"""A trained model in formats that other tools read, each checked against the model itself."""

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
    """A format: what writes it to a folder, and which files there are its own."""

    write: Callable[[Trained, Path], None]
    files: tuple[str, ...]


def export(trained: Trained, name: str, folder: Path) -> None:
    """Write a model in the format ``name``, a key of ``FORMATS``, and compare its answers.

    Raises:
        UserError: If the model cannot be had in this format, or what was written answers
            differently; then nothing of it is left.
    """
    write, files = FORMATS[name]
    try:
        write(trained, folder)
    except BaseException:
        for file in files:
            (folder / file).unlink(missing_ok=True)
        raise


def export_timm(trained: Trained, folder: Path) -> None:
    """Write what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""
    write_timm(trained, folder)
    model, classifier = load_timm(folder), Classifier(trained).eval()
    images = _noise(trained, 3)
    _compare("timm", model(classifier.normalize(images)), classifier(images), 1e-5)


def export_onnx(trained: Trained, folder: Path) -> None:
    """Write ``model.onnx``: from uint8 images ``[B, S, S, C]`` to logits, for any B."""
    import onnxruntime

    for chatty in ("onnxscript", "onnx_ir"):  # they tell what they do not optimize
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
    """Write ``model.pt2``, which ``torch.export.load`` reads: the same as the ONNX file."""
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
    """Refuse other logits; of logits above 1 the tolerance is a share."""
    difference = (theirs - ours).abs().max().item() / max(1.0, ours.abs().max().item())
    if not difference <= tolerance:
        raise UserError(
            f"{tool} computes other logits than the model: they differ by {difference:.1e}, and "
            f"{tolerance:g} is allowed."
        )


FORMATS = {
    "timm": Format(export_timm, (WEIGHTS, CONFIG)),
    "onnx": Format(export_onnx, (ONNX,)),
    "torch": Format(export_program, (PROGRAM,)),
}
