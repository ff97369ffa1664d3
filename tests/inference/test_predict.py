"""Predicting files gives what evaluation gave for the same images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import data_config
from PIL import Image
from runs import drawn_model

from semimae.data.crops import center_crop
from semimae.data.images import open_file
from semimae.data.store import Prepared
from semimae.engine.infer import Outputs, infer
from semimae.inference.predict import predict_files
from semimae.ingest.prepare import prepare
from semimae.model_file import Trained, open_model, save_model
from semimae.options.cell import Cell
from semimae.types import UserError


@pytest.fixture
def trained(small_cell: Callable[..., Cell], digits: Prepared, tmp_path: Path) -> Trained:
    path = tmp_path / "m.safetensors"
    save_model(drawn_model(small_cell(), digits), small_cell(), digits.info, path)
    return open_model(path)


@pytest.fixture
def files(digits: Prepared, tmp_path: Path) -> list[str]:
    """Ten digits as files, the third of which is broken."""
    assert digits.images is not None
    paths = [tmp_path / f"{row}.png" for row in range(10)]
    for path, pixels in zip(paths, digits.images[:10], strict=True):
        Image.fromarray(pixels[..., 0]).save(path)
    paths[2].write_bytes(b"no image")
    return [str(path) for path in paths]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_files_are_predicted_as_the_prepared_images_are(
    batch_size: int,
    trained: Trained,
    files: list[str],
    small_cell: Callable[..., Cell],
    digits: Prepared,
) -> None:
    said: list[tuple[list[str], Outputs]] = []
    bad: list[tuple[str, str]] = []
    steps: list[tuple[int, int]] = []
    predict_files(
        trained,
        files,
        on_batch=lambda paths, outputs: said.append((paths, outputs)),
        on_bad=lambda path, reason: bad.append((path, reason)),
        progress=lambda done, total: steps.append((done, total)),
        batch_size=batch_size,
        device="cpu",
    )
    good = [row for row in range(10) if row != 2]
    assert [path for paths, _ in said for path in paths] == [files[row] for row in good]
    assert all(len(paths) <= batch_size for paths, _ in said)
    assert bad == [(files[2], "not an image of a known format")]
    assert steps[-1] == (10, 10)
    cell = small_cell()
    expected = infer(drawn_model(cell, digits), cell, digits, np.array(good))
    probabilities = torch.cat([outputs.probabilities for _, outputs in said])
    torch.testing.assert_close(probabilities, expected.probabilities, rtol=1e-5, atol=1e-6)
    features = torch.cat([outputs.features for _, outputs in said])
    torch.testing.assert_close(features, expected.features, rtol=1e-4, atol=1e-5)
    labels = torch.cat([outputs.labels for _, outputs in said])
    assert labels.tolist() == expected.probabilities.argmax(dim=1).tolist()


@pytest.mark.parametrize("white", [None, 4095])
@pytest.mark.parametrize("layout", ["packed", "files", "cache"])
def test_images_of_12_bits_are_scaled_as_they_were_for_training(
    layout: str, white: int | None, small_cell: Callable[..., Cell], tmp_path: Path
) -> None:
    """The model's file says which value is white, whether prepare or training had decoded them."""
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in (f"train/{c}/{i}.png" for c in "ab" for i in range(4)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 4096, (30, 24), dtype=np.uint16)
        Image.fromarray(values).save(root / name)
    changes = {"pack_max_side": 64 if layout == "packed" else 0, "white_level": white}
    changes["cache_size"] = 16 if layout == "cache" else None
    config = data_config(channels=1, workers=1, **changes)
    info = prepare("imagefolder", config, root, tmp_path / "prepared")
    prepared = Prepared.read(tmp_path / "prepared", root)
    cell = small_cell()
    path = tmp_path / "m.safetensors"
    save_model(drawn_model(cell, prepared), cell, info, path)
    trained = open_model(path)
    brightest = 0
    for row, name in enumerate(prepared.names):
        with open_file(root / name) as image:
            seen = trained.pixels(image)
        used = prepared.pixels(row)
        if layout != "packed":
            used = center_crop(used, 8).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(seen, used)
        brightest = max(brightest, int(seen.max()))
    assert (brightest > 128) == (white is not None)


def test_probabilities_are_calibrated(trained: Trained, files: list[str]) -> None:
    def said(model: Trained) -> torch.Tensor:
        found: list[Outputs] = []
        predict_files(
            model,
            files[:2],
            on_batch=lambda paths, outputs: found.append(outputs),
            on_bad=lambda path, reason: None,
            progress=lambda done, total: None,
            batch_size=4,
            device="cpu",
        )
        return found[0].probabilities

    plain = said(trained)
    warm = said(trained._replace(info=trained.info.model_copy(update={"temperature": 3.0})))
    root = plain ** (1 / 3)
    torch.testing.assert_close(warm, root / root.sum(dim=1, keepdim=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is there")
def test_a_device_that_is_not_there_is_refused(trained: Trained, files: list[str]) -> None:
    with pytest.raises(UserError, match="cuda is not available here"):
        predict_files(
            trained,
            files,
            on_batch=lambda paths, outputs: None,
            on_bad=lambda path, reason: None,
            progress=lambda done, total: None,
            batch_size=4,
            device="cuda",
        )
