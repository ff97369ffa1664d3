"""Processes that decode give the bytes that threads give, and none is left behind."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import data_config
from PIL import Image

from semimae.data.decoding import Request, processes
from semimae.data.evaluation import eval_batches
from semimae.data.loader import TrainViews
from semimae.data.reader import ImageReader, num_processes
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.data import DataConfig
from semimae.types import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NUM = 24
SIZES = [(40, 30), (20, 64), (33, 33)]  # width, height


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files of two classes, in color and in gray."""
    folder: Path = tmp_path_factory.mktemp("decoding") / "root"
    rng = np.random.default_rng(0)
    for i in range(NUM):
        (width, height), path = SIZES[i % 3], folder / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        (image.convert("L") if i % 4 == 0 else image).save(path, quality=90)
    return folder


@pytest.fixture(scope="module")
def config() -> DataConfig:
    return data_config(pack_max_side=0, crop="resized")


@pytest.fixture(scope="module")
def files(root: Path, config: DataConfig) -> Prepared:
    out = root.parent / "prepared"
    prepare("imagefolder", config, root, out)
    return Prepared.read(out, root, 2, "threads")


def by_processes(files: Prepared, workers: int) -> Prepared:
    return dataclasses.replace(files, workers=workers, decode="processes")


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_the_bytes_of_threads(
    workers: int, files: Prepared, config: DataConfig
) -> None:
    """Also where one gets several requests, and where there are fewer images than processes."""
    every = np.random.default_rng(1).permutation(NUM)
    ours = ImageReader(by_processes(files, workers), config, every, CPU)
    theirs = ImageReader(files, config, every, CPU)
    assert ours.processes is processes(workers)
    assert theirs.processes is None
    source = torch.Generator().manual_seed(0)
    for rows in (every, every[:5], every[:1], every[:0]):
        draws = [torch.rand(len(rows), 4, generator=source) for _ in range(3)]
        assert torch.equal(ours.whole(rows), theirs.whole(rows))
        pairs = list(zip(ours.crops(rows, draws), theirs.crops(rows, draws), strict=True))
        assert len(pairs) == 3
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_a_step_and_an_evaluation_have_the_same_bits(
    crop: str, files: Prepared, config: DataConfig
) -> None:
    config = config.model_copy(update={"crop": crop})
    split = make_split(files, seed=0, num_labels=4, val_fraction=0.2, include_labeled=False)
    options: dict[str, Any] = {"seed": 0, "batch_size": 3, "num_unlabeled": 5}
    options |= {"num_patches": 4, "num_steps": 9, "device": CPU}
    ours, theirs = (
        TrainViews(prepared, split, config, **options)
        for prepared in (by_processes(files, 2), files)
    )
    for step in (3, 4, 0):
        for name in ("labeled", "weak", "strong"):
            assert torch.equal(*(getattr(views(step).batch, name) for views in (ours, theirs)))
    rows = np.arange(NUM)
    both = (
        eval_batches(prepared, config, rows, CPU, 7) for prepared in (by_processes(files, 2), files)
    )
    for (one, _), (other, _) in zip(*both, strict=True):
        assert torch.equal(one, other)


def test_a_damaged_image_is_named_and_the_next_one_is_read(
    files: Prepared, config: DataConfig, root: Path
) -> None:
    rows = np.arange(NUM)
    damaged = root / files.names[7]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:200])
    said = []
    try:
        for prepared in (by_processes(files, 1), files):
            with pytest.raises(UserError, match="restore it") as caught:
                ImageReader(prepared, config, rows, CPU).whole(rows)
            said.append(str(caught.value))
    finally:
        damaged.write_bytes(content)
    assert said[0] == said[1]
    assert files.names[7] in said[0]
    whole = (ImageReader(p, config, rows, CPU).whole(rows) for p in (by_processes(files, 1), files))
    assert torch.equal(*whole)


def test_a_process_that_is_killed_ends_the_run_in_one_line_and_is_replaced(
    files: Prepared, config: DataConfig
) -> None:
    rows = np.arange(4)
    reader = ImageReader(by_processes(files, 1), config, rows, CPU)
    assert reader.processes is not None
    held = reader.processes.idle.get()
    os.kill(held.process.pid, signal.SIGSTOP)  # so that it does not answer before it dies
    request = Request(files.files, files.names[:1], config.image_size, 1.0, [[]])
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(held.read, request, torch.empty(1, 1, 3, 8, 8, dtype=torch.uint8))
        os.kill(held.process.pid, signal.SIGKILL)
    with pytest.raises(UserError) as caught:
        waiting.result()
    assert str(caught.value) == (
        "a process that decodes images was ended by SIGKILL, perhaps for lack of memory; lower "
        "data.workers, or set data.decode: threads."
    )
    reader.processes.idle.put(held)
    assert torch.equal(reader.whole(rows), ImageReader(files, config, rows, CPU).whole(rows))


_RUN = """
    import os, signal, sys, threading
    import torch
    from semimae.data.decoding import Processes, Request
    from semimae.data.store import Files

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    made = Processes(1)
    name, out = sys.argv[1], torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)
    request = Request(Files(os.path.dirname(name), 3, None), [os.path.basename(name)], 8, 1, [[]])
    made.read(request, out)
    process = made.idle.get()
    made.idle.put(process)
    print(process.process.pid, flush=True)
    stopped.wait()
    made.read(request, out.zero_())
    print(int(out.count_nonzero() > 0), flush=True)
    made.close()
"""


@pytest.fixture
def run(root: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with a process that decodes, which have both been at work; its number."""
    command = [sys.executable, "-c", textwrap.dedent(_RUN), str(next(root.rglob("1.jpg")))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as started:
        assert started.stdout is not None
        yield started, int(started.stdout.readline())
        started.kill()


def test_a_run_that_is_stopped_can_still_read_and_leaves_no_process(
    run: tuple[subprocess.Popen[str], int],
) -> None:
    """A batch system signals all processes of a job, a terminal those of the run's group."""
    started, child = run
    assert os.getpgid(child) not in (os.getpgid(started.pid), os.getpgid(0))
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGINT)
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=60) == ("1\n", "")  # once no process holds the pipes
    assert started.returncode == 0


def test_a_run_that_is_killed_leaves_no_process(run: tuple[subprocess.Popen[str], int]) -> None:
    started, _ = run
    started.kill()
    assert started.communicate(timeout=60) == ("", "")


@pytest.mark.parametrize(
    ("decode", "workers", "device", "expected"),
    [
        ("auto", 8, CPU, 0),
        ("auto", 3, CUDA, 0),  # threads are not limited by the lock yet
        ("auto", 4, CUDA, 4),
        ("auto", 40, CUDA, 40),
        ("auto", 0, CUDA, 16),
        ("processes", 0, CPU, 16),
        ("processes", 1, CPU, 1),
        ("threads", 8, CUDA, 0),
    ],
)
def test_processes_decode_where_threads_could_not_feed_a_gpu(
    decode: Any,
    workers: int,
    device: torch.device,
    expected: int,
    files: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    prepared = dataclasses.replace(files, decode=decode, workers=workers)
    assert num_processes(prepared, device) == expected
    packed = dataclasses.replace(prepared, images=np.zeros((NUM, 8, 8, 3), dtype=np.uint8))
    assert num_processes(packed, device) == 0
    if not workers:  # the processes of a run share the cores
        monkeypatch.setenv("WORLD_SIZE", "8")
        assert num_processes(prepared, device) == 8
