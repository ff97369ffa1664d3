import threading

import numpy as np
import pytest
from data_helpers import data_config, noise
from PIL import Image

from semimae.ingest.scan import check_images, moments
from semimae.ingest.source import Source


def test_moments_of_any_histogram() -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 5000))
    mean, std = moments(np.stack([np.bincount(v, minlength=256) for v in values]))
    assert mean == pytest.approx((values / 255).mean(axis=1))
    assert std == pytest.approx((values / 255).std(axis=1))


@pytest.mark.parametrize("workers", [1, 3])
def test_few_images_are_in_memory_at_once(workers: int) -> None:
    lock, opened, ahead = threading.Lock(), [0], []

    def open_one(index: int) -> Image.Image:
        with lock:
            opened[0] += 1
        return noise(index)

    n = 400
    source = Source(
        name="many",
        names=[f"{(7 * i) % n:03}" for i in range(n)],
        labels=[0] * n,
        splits=["train"] * n,
        class_names=["a"],
        open=open_one,
        read_bytes=lambda index: bytes([index % 256]),
        root=None,
    )
    config = data_config(workers=workers)
    checked = check_images(source, config, lambda done, total: ahead.append(opened[0] - done))
    assert len(ahead) == n
    assert max(ahead) <= 8 * workers
    assert [source.names[row] for row in checked.rows] == sorted(source.names)
    assert (checked.digests[0] != checked.digests[1]).any()
