"""From prepared images to batches on the device. A step's batch is a function of (seed, step)."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from semimae.data.augment import strong_view, to_float, view_draws, weak_view
from semimae.data.crops import center_crop, resized_crop
from semimae.data.erasing import ERASING_DRAWS, erase
from semimae.data.labeled import MIX_DRAWS, mix_neighbors, soft_targets
from semimae.data.split import Split
from semimae.data.store import Prepared, Rows
from semimae.distributed import own_share
from semimae.options.data import CellData
from semimae.options.labeled import LabeledConfig
from semimae.random import normal, permutation, uniform
from semimae.types import Batch, Step

_CROP_DRAWS = 4  # area, aspect ratio, left, top


class ImageReader:
    """Reads rows as uint8 tensors ``[B, C, S, S]`` on a device.

    Packed images live on the device. Others are decoded and scaled by threads: neither Pillow nor
    torch holds the interpreter's lock meanwhile.
    """

    def __init__(
        self, prepared: Prepared, config: CellData, rows: Rows, device: torch.device
    ) -> None:
        self.prepared, self.config, self.device = prepared, config, device
        self.pool = ThreadPoolExecutor(prepared.workers or os.cpu_count() or 1)
        self.packed: Tensor | None = None
        if prepared.images is not None:  # only the rows that were asked for, in their order
            self.place = np.full(len(prepared.labels), -1)
            self.place[rows] = np.arange(len(rows))
            chosen = np.ascontiguousarray(prepared.images[rows].transpose(0, 3, 1, 2))
            self.packed = sent(torch.from_numpy(chosen), device)

    def whole(self, rows: Rows) -> Tensor:
        """Return whole images; where they are not packed, scaled and cropped at the center."""
        if self.packed is not None:
            # index_select: many times faster than indexing for bytes on the CPU
            places = sent(torch.from_numpy(self.place[rows]), self.device)
            return self.packed.index_select(0, places)
        size = self.config.image_size
        made = self.pool.map(lambda row: center_crop(self.prepared.pixels(row), size), rows)
        return self._stacked(list(made))

    def crops(self, rows: Rows, draws: list[Tensor]) -> list[Tensor]:
        """Return a random resized crop per element of ``draws`` (``[B, 4]``) from one decoding."""
        size, min_scale = self.config.image_size, self.config.crop_min_scale

        def views(row: int, parameters: list[list[float]]) -> list[Tensor]:
            pixels = self.prepared.pixels(row)
            return [resized_crop(pixels, size, min_scale, *p) for p in parameters]

        made = list(self.pool.map(views, rows, torch.stack(draws, dim=1).tolist()))
        return [self._stacked([view[i] for view in made]) for i in range(len(draws))]

    def _stacked(self, images: list[Tensor]) -> Tensor:
        if not images:  # of a process whose share is empty
            size = self.config.image_size
            shape = (0, self.config.channels, size, size)
            return torch.empty(shape, dtype=torch.uint8, device=self.device)
        return sent(torch.stack(images), self.device)


class TrainViews:
    """Makes the ``Step`` of any step number.

    Draws are made for the whole batch at once from (seed, purpose, step), so nothing depends on
    which steps were made before.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: Split,
        config: CellData,
        *,
        seed: int,
        batch_size: int,
        num_unlabeled: int,
        num_patches: int,
        num_steps: int,
        device: torch.device,
        labeled: LabeledConfig | None = None,
        accumulate: int = 1,
        path_rates: Tensor | None = None,
    ) -> None:
        """Set up.

        Args:
            prepared: The images.
            split: Which of them are labeled and unlabeled.
            config: How views are made.
            seed: Key of all randomness.
            batch_size: Labeled images per step.
            num_unlabeled: Unlabeled images per step; 0 if the method uses none.
            num_patches: Patches per image, for the mask's noise.
            num_steps: Length of the run, for ``Batch.progress``.
            device: Where the views are made.
            labeled: How labeled images are mixed and their labels smoothed; ``None`` for methods
                that learn no labels.
            accumulate: Micro-batches per step, for ``Batch``.
            path_rates: Probability that each residual branch is left out; ``None``: none ever is.
        """
        self.config, self.seed, self.device = config, seed, device
        self.batch_size, self.num_unlabeled = batch_size, num_unlabeled
        self.num_patches, self.num_steps, self.accumulate = num_patches, num_steps, accumulate
        # Draws are the global batch's; views are made of this process's share alone.
        self.own_labeled, self.own_unlabeled = own_share(batch_size), own_share(num_unlabeled)
        self.regularized, self.num_classes = labeled, prepared.info.num_classes
        self.path_rates = path_rates
        self.labels = torch.from_numpy(prepared.labels)
        self.labeled = np.asarray(split.labeled, dtype=np.int64)
        # A pseudo label of an image whose own label is trained on says nothing of the others.
        self.hidden = self.labels.clone()
        self.hidden[self.labeled] = -1
        self.unlabeled = split.unlabeled(prepared)
        rows = np.union1d(self.labeled, self.unlabeled) if num_unlabeled else self.labeled
        self.reader = ImageReader(prepared, config, rows, device)
        self.mean, self.std = normalization(prepared, config)
        # The next step is made while the device works on this one: decoding takes long, and on a
        # CPU views do too. Packed images that a GPU crops are only work for its own queue.
        packed = self.reader.packed is not None and config.crop == "pad"
        inline = packed and device.type != "cpu"
        self.ahead = None if inline else ThreadPoolExecutor(1, initializer=_use, initargs=(device,))
        self.reading: dict[int, Future[Step]] = {}

    def __call__(self, step: int) -> Step:
        """Return the batch of a step."""
        if self.ahead is None:
            return self._make(step)
        for wanted in (step, step + 1):
            if wanted not in self.reading:
                self.reading[wanted] = self.ahead.submit(self._make, wanted)
        self.reading = {k: v for k, v in self.reading.items() if k >= step}
        return self.reading.pop(step).result()

    def _make(self, step: int) -> Step:
        progress = step / self.num_steps
        rows = sample_rows(self.labeled, self.batch_size, self.seed, "labeled", step)
        labels = self._send(self.labels[rows])
        labeled, targets = self._labeled(rows, step)
        first, parts = self.own_labeled.start, self.accumulate
        if not self.num_unlabeled:
            nothing = labeled[:0]
            nobody = labels[:0]
            none = (nothing, nothing, nothing, nothing, nobody)
            empty = Batch(
                labeled,
                labels,
                *none,
                progress,
                first,
                accumulate=parts,
                targets=targets,
                paths=self._paths(step),
            )
            return Step(empty, labels[:0])
        rows = sample_rows(self.unlabeled, self.num_unlabeled, self.seed, "unlabeled", step)
        own = self.own_unlabeled
        weak, strong = self._views(rows, places(own), {"weak": False, "strong": True}, step)
        noise = uniform((len(rows), self.num_patches), self.seed, "mask", step)
        batch = Batch(
            labeled=labeled,
            labels=labels,
            weak=weak,
            strong=strong,
            mask_noise=self._send(noise[own]),
            mix_noise=self._send(uniform((len(rows), 4), self.seed, "mix", step)),
            unlabeled_index=self._send(torch.from_numpy(np.searchsorted(self.unlabeled, rows))),
            progress=progress,
            first_labeled=first,
            first_unlabeled=own.start,
            accumulate=parts,
            targets=targets,
            paths=self._paths(step),
        )
        return Step(batch, self._send(self.hidden[rows]))

    def _paths(self, step: int) -> Tensor | None:
        """Return the factors of residual branches: 0, or what keeps their expectation at 1."""
        rates = self.path_rates
        if rates is None:
            return None
        shape = (self.batch_size + self.num_unlabeled, len(rates))
        return self._send((uniform(shape, self.seed, "paths", step) >= rates) / (1 - rates))

    def _send(self, tensor: Tensor) -> Tensor:
        return sent(tensor, self.device)

    def _labeled(self, rows: Rows, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the labeled views of this process, and their targets if they are soft."""
        config, own = self.regularized, places(self.own_labeled)
        if config is None:
            (images,) = self._views(rows, own, {"labeled": False}, step)
            return images, None
        mixes = config.mixes and len(own) > 0
        if mixes:
            own = [(own[0] - 1) % len(rows), *own]
        (images,) = self._views(rows, own, {"labeled": config.view == "strong"}, step)
        if config.view == "strong" and config.view_probability < 1:
            (weak,) = self._views(rows, own, {"labeled": False}, step)  # the same crops
            chosen = uniform((len(rows),), self.seed, "strong", "labeled", step)[own]
            is_strong = self._send(chosen < config.view_probability)
            images = torch.where(is_strong.view(-1, 1, 1, 1), images, weak)
        if not (config.mixes or config.smoothing):
            return images, None
        labels = self._send(self.labels[rows[own]])
        targets = soft_targets(labels, self.num_classes, config.smoothing)
        if mixes:
            draws = uniform((len(rows), MIX_DRAWS), self.seed, "mix", "labeled", step)
            images, targets = mix_neighbors(images, targets, draws[own[1:]], config)
        return images, targets

    def _views(
        self, rows: Rows, own: list[int], purposes: dict[str, bool], step: int
    ) -> list[Tensor]:
        """Return a normalized view per purpose of the images at places ``own`` of the batch.

        Args:
            rows: Of the global batch.
            own: Places in it.
            purposes: Names, and whether the view is the strong one.
            step: Which batch it is.
        """
        count, rows = len(rows), rows[own]

        def draw(purpose: str, kind: str, columns: int) -> Tensor:
            return uniform((count, columns), self.seed, kind, purpose, step)[own]

        def noise(purpose: str, place: int, number: int) -> Tensor:
            return normal((number,), self.seed, "noise", purpose, step, own[place])

        if self.config.crop == "resized":
            crops = [draw(purpose, "crop", _CROP_DRAWS) for purpose in purposes]
            images = self.reader.crops(rows, crops)
        else:
            images = [self.reader.whole(rows)] * len(purposes)
        views = []
        for (purpose, strong), image in zip(purposes.items(), images, strict=True):
            draws = view_draws(partial(draw, purpose), self.config, strong)
            view = (strong_view if strong else weak_view)(image, draws, self.config)
            view = to_float(view, self.mean, self.std)
            if strong and self.config.erasing:
                draws = draw(purpose, "erasing", ERASING_DRAWS)
                fill = partial(noise, purpose) if self.config.erasing_fill == "noise" else None
                view = erase(view, draws, self.config.erasing, fill)
            views.append(view)
        return views


def places(own: slice) -> list[int]:
    """Return the places that a slice with a start and a stop stands for."""
    return list(range(own.start, own.stop))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait until it is there."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _use(device: torch.device) -> None:
    """Make a device a new thread's current one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def normalization(
    prepared: Prepared, config: CellData
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel: the config's, else what was measured."""
    return config.mean or prepared.info.mean, config.std or prepared.info.std


def eval_batches(
    prepared: Prepared, config: CellData, rows: Rows, device: torch.device, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalized whole images ``[B, C, S, S]`` and their labels ``[B]``, in order of rows."""
    reader = ImageReader(prepared, config, rows, device)
    mean, std = normalization(prepared, config)
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size]
        images = to_float(reader.whole(chunk), mean, std)
        yield images, torch.from_numpy(prepared.labels[chunk]).to(device)


def sample_rows(rows: Rows, count: int, seed: int, purpose: str, step: int) -> Rows:
    """Return the rows of a step, ``[count]``: shuffled passes over ``rows``, one after the other.

    ``count`` may exceed the number of rows; then a batch holds some of them more than once.
    """
    places = np.arange(step * count, (step + 1) * count)
    epochs = places // len(rows)
    order = [_epoch(len(rows), seed, purpose, epoch) for epoch in np.unique(epochs).tolist()]
    chosen: Rows = rows[np.stack(order)[epochs - epochs[0], places % len(rows)]]
    return chosen


@lru_cache(maxsize=8)
def _epoch(n: int, seed: int, purpose: str, epoch: int) -> Rows:
    order: Rows = permutation(n, seed, purpose, epoch).numpy()
    return order
