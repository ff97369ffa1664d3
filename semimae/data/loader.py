"""From prepared images to batches on the device. A step's batch is a function of (seed, step)."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from semimae.data.augment import strong_view, to_float, view_draws, weak_view
from semimae.data.erasing import ERASING_DRAWS, erase
from semimae.data.evaluation import normalization
from semimae.data.labeled import MIX_DRAWS, mix_neighbors, soft_targets
from semimae.data.reader import ImageReader
from semimae.data.sampling import places, rows_of_steps
from semimae.data.sending import Made, received, sent, sent_together, use
from semimae.data.split import Split
from semimae.data.store import Prepared, Rows
from semimae.distributed import own_share
from semimae.options.data import CellData
from semimae.options.labeled import LabeledConfig
from semimae.random import normal, uniform
from semimae.types import Batch, Step

_CROP_DRAWS = 4  # area, aspect ratio, left, top
_TOGETHER = 8  # steps whose views a GPU makes at once, if they are no more than this:
_TOGETHER_BYTES = 2**28


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
        weak_only: bool = False,
        accumulate: int = 1,
        path_rates: Tensor | None = None,
        resident: bool = True,
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
            weak_only: Make no labeled and strong views, for methods that only reconstruct.
            accumulate: Micro-batches per step, for ``Batch``.
            path_rates: Probability that each residual branch is left out; ``None``: none ever is.
            resident: Whether packed images are kept on the device, or on the host.
        """
        self.config, self.seed, self.device = config, seed, device
        self.batch_size, self.num_unlabeled = batch_size, num_unlabeled
        self.num_patches, self.num_steps, self.accumulate = num_patches, num_steps, accumulate
        # Draws are the global batch's; views are made of this process's share alone.
        self.own_labeled, self.own_unlabeled = own_share(batch_size), own_share(num_unlabeled)
        self.purposes = {"weak": False, "strong": True}
        if weak_only:
            self.own_labeled, self.purposes = slice(0, 0), {"weak": False}
        self.regularized, self.num_classes = labeled, prepared.info.num_classes
        self.path_rates = path_rates
        self.labels = torch.from_numpy(prepared.labels)
        self.labeled = np.asarray(split.labeled, dtype=np.int64)
        # A pseudo label of an image whose own label is trained on says nothing of the others.
        self.hidden = self.labels.clone()
        self.hidden[self.labeled] = -1
        self.unlabeled = split.unlabeled(prepared)
        rows = np.union1d(self.labeled, self.unlabeled) if num_unlabeled else self.labeled
        self.reader = ImageReader(prepared, config, rows, device, resident=resident)
        self.mean, self.std = normalization(prepared, config)
        # The next step is made while the device works on this one: decoding takes long, and on a
        # CPU views do too. Packed images that a GPU crops are only work for its own queue, of
        # which several steps together are less: its operations are many and small.
        packed = resident and self.reader.packed is not None and config.crop == "pad"
        inline = packed and device.type != "cpu"
        self.ahead = None if inline else ThreadPoolExecutor(1, initializer=use, initargs=(device,))
        self.reading: dict[int, Future[list[Made]]] = {}
        pixels = (batch_size + 2 * num_unlabeled) * config.channels * config.image_size**2
        self.together = max(1, min(_TOGETHER, _TOGETHER_BYTES // (4 * pixels)))
        self.made: dict[int, Made] = {}
        # A GPU makes and copies them beside its work on a step.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, step: int) -> Step:
        """Return the batch of a step."""
        if self.ahead is None:
            if step not in self.made:
                steps = range(step, max(step + 1, min(step + self.together, self.num_steps)))
                self.made = dict(zip(steps, self._make_beside(steps), strict=True))
            return received(*self.made.pop(step))
        for wanted in (step, step + 1):
            if wanted not in self.reading:
                steps = range(wanted, wanted + 1)
                self.reading[wanted] = self.ahead.submit(self._make_beside, steps)
        self.reading = {k: v for k, v in self.reading.items() if k >= step}
        (made,) = self.reading.pop(step).result()
        return received(*made)

    def _make_beside(self, steps: range) -> list[Made]:
        """Make the batches of some steps, on CUDA in a stream of their own."""
        if self.stream is None:
            return [(step, None) for step in self.make(steps)]
        with torch.cuda.stream(self.stream):
            made = self.make(steps)
            done = self.stream.record_event()
        return [(step, done) for step in made]

    def make(self, steps: range) -> list[Step]:
        """Return the batches of some steps, made by one call of each operation."""
        rows = rows_of_steps(self.labeled, self.batch_size, self.seed, "labeled", steps)
        others = rows_of_steps(self.unlabeled, self.num_unlabeled, self.seed, "unlabeled", steps)
        numbers = [self._numbers(*drawn) for drawn in zip(rows, others, steps, strict=True)]
        flat = iter(sent_together([t for own in numbers for t in own.values()], self.device))
        fields = [{name: next(flat) for name in own} for own in numbers]
        labeled = self._labeled(rows, steps)
        own, none = self.own_unlabeled, labeled[0][0][:0]
        made = self._views(others, places(own), self.purposes, steps) if self.num_unlabeled else []
        nothing = [none] * len(steps)
        weak, strong = [*made, nothing, nothing][:2]
        result = []
        for index, step in enumerate(steps):
            hidden = fields[index].pop("hidden")
            images, targets = labeled[index]
            batch = Batch(
                labeled=images,
                weak=weak[index],
                strong=strong[index],
                progress=step / self.num_steps,
                first_labeled=self.own_labeled.start,
                first_unlabeled=own.start,
                accumulate=self.accumulate,
                targets=targets,
                **fields[index],
            )
            result.append(Step(batch, hidden))
        return result

    def _numbers(self, rows: Rows, others: Rows, step: int) -> dict[str, Tensor]:
        """Return what a batch holds beside images, by the names of its fields, on the host."""
        count = len(others)
        noise = uniform((count, self.num_patches), self.seed, "mask", step)
        made = {
            "labels": self.labels[rows],
            "hidden": self.hidden[others],
            "mask_noise": noise[self.own_unlabeled],
            "mix_noise": uniform((count, 4), self.seed, "mix", step),
            "unlabeled_index": torch.from_numpy(np.searchsorted(self.unlabeled, others)),
        }
        if self.path_rates is not None:  # 0, or what keeps the expectation of a branch at 1
            shape = (len(rows) + count, len(self.path_rates))
            kept = uniform(shape, self.seed, "paths", step) >= self.path_rates
            made["paths"] = kept / (1 - self.path_rates)
        return made

    def _labeled(self, rows: list[Rows], steps: range) -> list[tuple[Tensor, Tensor | None]]:
        """Return each step's labeled views of this process, and their targets if they are soft."""
        config, own = self.regularized, places(self.own_labeled)
        mixes = config is not None and config.mixes and len(own) > 0
        if mixes:
            own = [(own[0] - 1) % self.batch_size, *own]
        strong = config is not None and config.view == "strong"
        (images,) = self._views(rows, own, {"labeled": strong}, steps)
        if config is None:
            return [(part, None) for part in images]
        if strong and config.view_probability < 1:
            (weak,) = self._views(rows, own, {"labeled": False}, steps)  # the same crops
            is_strong = self._draws(("strong", "labeled"), own, self.batch_size, steps)
            chosen = sent(is_strong < config.view_probability, self.device)
            images = [
                torch.where(use.view(-1, 1, 1, 1), one, other)
                for use, one, other in zip(chosen.split(len(own)), images, weak, strict=True)
            ]
        if not (config.mixes or config.smoothing):
            return [(part, None) for part in images]
        soft: list[tuple[Tensor, Tensor | None]] = []
        for part, drawn, step in zip(images, rows, steps, strict=True):
            labels = sent(self.labels[drawn[own]], self.device)
            targets = soft_targets(labels, self.num_classes, config.smoothing)
            if mixes:
                draws = uniform((len(drawn), MIX_DRAWS), self.seed, "mix", "labeled", step)
                part, targets = mix_neighbors(part, targets, draws[own[1:]], config)
            soft.append((part, targets))
        return soft

    def _views(
        self, rows: list[Rows], own: list[int], purposes: dict[str, bool], steps: range
    ) -> list[list[Tensor]]:
        """Return, per purpose and step, normalized views of the images at places ``own``.

        Args:
            rows: Of each step's global batch.
            own: Places in it.
            purposes: Names, and whether the view is the strong one.
            steps: Which batches these are.
        """
        count, chosen = len(rows[0]), np.concatenate([drawn[own] for drawn in rows])

        def draw(purpose: str, kind: str, columns: int) -> Tensor:
            return self._draws((kind, purpose), own, (count, columns), steps)

        def noise(purpose: str, place: int, number: int) -> Tensor:
            nth, place = divmod(place, len(own))
            return normal((number,), self.seed, "noise", purpose, steps[nth], own[place])

        if self.config.crop == "resized":
            crops = [draw(purpose, "crop", _CROP_DRAWS) for purpose in purposes]
            images = self.reader.crops(chosen, crops)
        else:
            images = [self.reader.whole(chosen)] * len(purposes)
        views = []
        for (purpose, strong), image in zip(purposes.items(), images, strict=True):
            draws = view_draws(partial(draw, purpose), self.config, strong)
            view = (strong_view if strong else weak_view)(image, draws, self.config)
            view = to_float(view, self.mean, self.std)
            if strong and self.config.erasing:
                draws = draw(purpose, "erasing", ERASING_DRAWS)
                fill = partial(noise, purpose) if self.config.erasing_fill == "noise" else None
                view = erase(view, draws, self.config.erasing, fill)
            views.append([view[n * len(own) :][: len(own)] for n in range(len(steps))])
        return views

    def _draws(
        self, key: tuple[str, ...], own: list[int], shape: int | tuple[int, ...], steps: range
    ) -> Tensor:
        """Return the draws of each step's global batch at places ``own``, one after the other."""
        shape = (shape,) if isinstance(shape, int) else shape
        return torch.cat([uniform(shape, self.seed, *key, step)[own] for step in steps])
