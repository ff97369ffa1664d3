import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import data_config
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import changed_params

from semimae.data import loader
from semimae.data.crops import center_crop, resized_crop
from semimae.data.evaluation import eval_batches
from semimae.data.loader import TrainViews
from semimae.data.reader import ImageReader
from semimae.data.sampling import sample_rows
from semimae.data.sending import as_one, in_one
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.data import DataConfig
from semimae.random import uniform
from semimae.types import Batch, Step

CPU = torch.device("cpu")
_DTYPES = [torch.uint8, torch.bool, torch.float32, torch.int64, torch.float64]
PER_CLASS = 12
SIDES = [(40, 30), (20, 64), (33, 33)]  # width, height; all above the packing limit of `files`


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files of three classes and several shapes."""
    root = tmp_path_factory.mktemp("jpegs") / "root"
    rng = np.random.default_rng(0)
    for label in range(3):
        for i in range(PER_CLASS):
            width, height = SIDES[i % len(SIDES)]
            pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
            path = root / "train" / f"class{label}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((width, height)).save(path, quality=90)
    return root


def make(folder: Path, out: Path, **changes: object) -> tuple[Prepared, DataConfig]:
    config = data_config(**changes)
    prepare("imagefolder", config, folder, out)
    return Prepared.read(out, folder), config


@pytest.fixture(scope="session")
def files(folder: Path) -> tuple[Prepared, DataConfig]:
    """The images stay in their files."""
    made = make(folder, folder.parent / "files", pack_max_side=16)
    assert made[0].images is None
    return made


@pytest.fixture(scope="session")
def packed(folder: Path) -> tuple[Prepared, DataConfig]:
    """The images are in one array."""
    made = make(folder, folder.parent / "packed", pack_max_side=64)
    assert made[0].images is not None
    return made


def halve(prepared: Prepared, include_labeled: bool = False) -> Split:
    return make_split(
        prepared, seed=0, num_labels=6, val_fraction=0.2, include_labeled=include_labeled
    )


def views(data: tuple[Prepared, DataConfig], split: Split, **changes: object) -> TrainViews:
    prepared, config = data
    options: dict[str, object] = {
        "seed": 0,
        "batch_size": 4,
        "num_unlabeled": 8,
        "num_patches": 9,
        "num_steps": 100,
        "device": CPU,
    }
    return TrainViews(prepared, split, config, **(options | changes))  # type: ignore[arg-type]


def tensors(step: Step) -> list[torch.Tensor]:
    return [t for t in (*step.batch, step.hidden_labels) if isinstance(t, torch.Tensor)]


def same(a: Step, b: Step) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return len(pairs) >= 5 and all(torch.equal(x, y) for x, y in pairs)


# --- sample_rows


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_each_pass_takes_every_row_exactly_once(n: int, count: int, passes: int, seed: int) -> None:
    rows = np.arange(100, 100 + n)
    num_steps = -(-passes * n // count)
    drawn = [sample_rows(rows, count, seed, "labeled", step) for step in range(num_steps)]
    assert all(len(batch) == count for batch in drawn)
    stream = np.concatenate(drawn)
    for start in range(0, passes * n, n):
        assert sorted(stream[start : start + n].tolist()) == rows.tolist()


@given(st.integers(1, 9), st.integers(10, 40))
def test_a_batch_may_be_larger_than_the_set(n: int, count: int) -> None:
    times = Counter(sample_rows(np.arange(n), count, 0, "labeled", 3).tolist())
    assert sum(times.values()) == count
    assert max(times.values()) - min(times[i] for i in range(n)) <= 2


def test_rows_depend_on_seed_purpose_and_step_alone() -> None:
    rows = np.arange(50)

    def draw(seed: int = 0, purpose: str = "labeled", step: int = 7) -> list[int]:
        return sample_rows(rows, 10, seed, purpose, step).tolist()

    expected = draw()
    for step in (0, 99, 3):  # other steps in between, out of order
        draw(step=step)
    assert draw() == expected
    assert draw(seed=1) != expected
    assert draw(purpose="unlabeled") != expected
    assert draw(step=8) != expected


def test_passes_are_shuffled_differently() -> None:
    rows = np.arange(20)
    first, second = (sample_rows(rows, 20, 0, "labeled", step).tolist() for step in (0, 1))
    assert first != second
    assert first != rows.tolist()


# --- reader


def test_packed_images_are_read_as_they_were_packed(packed: tuple[Prepared, DataConfig]) -> None:
    prepared, config = packed
    assert prepared.images is not None
    rows = np.array([9, 2, 5])
    reader = ImageReader(prepared, config, np.arange(12), CPU)
    read = reader.whole(rows)
    assert read.dtype == torch.uint8
    np.testing.assert_array_equal(read.numpy(), prepared.images[rows].transpose(0, 3, 1, 2))


def test_a_row_that_was_not_asked_for_cannot_be_read(packed: tuple[Prepared, DataConfig]) -> None:
    reader = ImageReader(*packed, np.array([1, 4]), CPU)
    with pytest.raises((IndexError, RuntimeError)):
        reader.whole(np.array([1, 2]))


def test_files_are_cropped_at_the_center(files: tuple[Prepared, DataConfig]) -> None:
    prepared, config = files
    rows = np.array([7, 0, 3])
    read = ImageReader(prepared, config, rows, CPU).whole(rows).numpy()
    expected = [center_crop(prepared.pixels(row), config.image_size) for row in rows.tolist()]
    np.testing.assert_array_equal(read, torch.stack(expected).numpy())


@pytest.mark.parametrize("kind", ["files", "packed"])
def test_crops_use_each_image_s_own_draws(kind: str, request: pytest.FixtureRequest) -> None:
    prepared, config = request.getfixturevalue(kind)
    rows = np.array([4, 8])
    draws = [torch.rand(2, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    made = ImageReader(prepared, config, rows, CPU).crops(rows, draws)
    assert len(made) == 3
    for view, parameters in zip(made, draws, strict=True):
        for image, row, numbers in zip(view, rows.tolist(), parameters.tolist(), strict=True):
            expected = resized_crop(prepared.pixels(row), 8, config.crop_min_scale, *numbers)
            assert torch.equal(image, expected)


# --- eval_batches


@pytest.mark.parametrize("kind", ["files", "packed"])
def test_evaluation_goes_through_the_rows_in_order(
    kind: str, request: pytest.FixtureRequest
) -> None:
    prepared, config = request.getfixturevalue(kind)
    rows = np.array([8, 3, 11, 0, 5])
    batches = list(eval_batches(prepared, config, rows, CPU, 2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    labels = torch.cat([labels for _, labels in batches])
    assert labels.tolist() == prepared.labels[rows].tolist()
    images = torch.cat([images for images, _ in batches]).double().numpy()
    read = ImageReader(prepared, config, rows, CPU).whole(rows).numpy() / 255
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (prepared.info.mean, prepared.info.std))
    np.testing.assert_allclose(images, (read - mean) / std, rtol=1e-4, atol=1e-4)


def test_the_config_s_normalization_goes_first(packed: tuple[Prepared, DataConfig]) -> None:
    prepared, config = packed
    own = config.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.125)})
    ((images, _),) = eval_batches(prepared, own, np.array([0]), CPU, 1)
    assert prepared.images is not None
    pixels = prepared.images[0].transpose(2, 0, 1) / 255
    expected = (pixels - np.array([[[0.1]], [[0.2]], [[0.3]]])) / np.array(
        [[[0.5]], [[0.25]], [[0.125]]]
    )
    np.testing.assert_allclose(images[0].numpy(), expected, rtol=1e-4, atol=1e-4)


# --- training views


@pytest.fixture(params=["packed-pad", "packed-resized", "files-pad", "files-resized"])
def data(request: pytest.FixtureRequest) -> tuple[Prepared, DataConfig]:
    kind, crop = request.param.split("-")
    prepared, config = request.getfixturevalue(kind)
    return prepared, config.model_copy(update={"crop": crop})


def test_a_step_has_what_a_method_needs(data: tuple[Prepared, DataConfig]) -> None:
    batch, hidden_labels = views(data, halve(data[0]))(3)
    assert batch.labeled.shape == (4, 3, 8, 8)
    assert batch.weak.shape == batch.strong.shape == (8, 3, 8, 8)
    assert all(t.dtype == torch.float32 for t in (batch.labeled, batch.weak, batch.strong))
    assert batch.mask_noise.shape == (8, 9)
    assert batch.labels.shape == (4,)
    assert hidden_labels.shape == (8,)
    assert not torch.equal(batch.weak, batch.strong)


def test_a_batch_carries_no_label_of_an_unlabeled_image() -> None:
    """The contract is the type: whoever adds a field has to look at it here."""
    assert set(Batch._fields) == {
        "labeled",
        "labels",
        "weak",
        "strong",
        "mask_noise",
        "mix_noise",
        "unlabeled_index",
        "progress",
        "first_labeled",
        "first_unlabeled",
        "accumulate",
        "targets",
        "paths",
    }


def test_a_step_is_a_function_of_seed_and_step(data: tuple[Prepared, DataConfig]) -> None:
    split = halve(data[0])
    one, other = views(data, split), views(data, split)
    expected = one(5)
    for step in (6, 0, 4):
        other(step)
    assert same(other(5), expected)
    assert same(one(5), expected)
    assert not same(one(6), expected)
    assert not same(views(data, split, seed=1)(5), expected)


def test_reading_ahead_changes_nothing(data: tuple[Prepared, DataConfig]) -> None:
    split = halve(data[0])
    ahead, direct = views(data, split), views(data, split)
    for step in (0, 1, 2, 7, 1):
        assert same(ahead(step), direct.make(range(step, step + 1))[0])


@pytest.mark.parametrize("num_unlabeled", [0, 8])
@pytest.mark.parametrize("regularized", [False, True])
def test_views_of_several_steps_at_once_have_the_same_bits(
    regularized: bool, num_unlabeled: int, data: tuple[Prepared, DataConfig]
) -> None:
    """Also across the end of a pass over the images, and where views are mixed."""
    prepared, config = data
    changes: dict[str, object] = {"num_unlabeled": num_unlabeled}
    if regularized:
        noisy = {"hflip": True, "color_jitter": 0.4, "erasing": 0.5, "erasing_fill": "noise"}
        noisy |= {"randaugment_magnitude_std": 1.5}
        config = config.model_copy(update=noisy)
        changes["labeled"] = changed_params(
            **{f"labeled__{key}": value for key, value in _MIXED.items()}
        ).labeled
        changes["path_rates"] = torch.tensor([0.0, 0.2])
    made = views((prepared, config), halve(prepared), **changes)
    together = made.make(range(3, 8))
    for step, at_once in zip(range(3, 8), together, strict=True):
        (alone,) = made.make(range(step, step + 1))
        assert same(at_once, alone)
        assert at_once.batch.progress == alone.batch.progress


_MIXED = {"view": "strong", "view_probability": 0.5, "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}


def test_a_device_that_makes_steps_together_hands_them_out_one_by_one(
    packed: tuple[Prepared, DataConfig],
) -> None:
    split = halve(packed[0])
    made, direct = views(packed, split, num_steps=12), views(packed, split, num_steps=12)
    made.ahead = None  # as where packed images live on a GPU
    asked: list[range] = []
    make = made.make
    made.make = lambda steps: (asked.append(steps), make(steps))[1]  # type: ignore[method-assign]
    for step in (2, 3, 4, 9, 10, 11, 0):
        assert same(made(step), direct(step))
    assert asked == [range(2, 10), range(10, 12), range(8)]


def test_images_that_do_not_fit_stay_on_the_host(packed: tuple[Prepared, DataConfig]) -> None:
    prepared, config = packed
    rows = np.array([5, 2, 9])
    device = torch.device("meta")
    reader = ImageReader(prepared, config, rows, device, resident=False)
    assert reader.packed is not None
    assert reader.packed.device == CPU
    assert reader.whole(rows[:2]).device == device
    resident = ImageReader(prepared, config, rows, device)
    assert resident.packed is not None
    assert resident.packed.device == device
    on_host = ImageReader(prepared, config, rows, CPU, resident=False).whole(rows[1:])
    assert torch.equal(on_host, ImageReader(prepared, config, rows, CPU).whole(rows[1:]))


@given(st.lists(st.sampled_from(_DTYPES), max_size=6), st.integers(0, 9), st.integers(0, 2**31))
def test_tensors_that_are_sent_together_arrive_as_they_were(
    dtypes: list[torch.dtype], size: int, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randint(0, 2, (size + n, n), generator=source).to(dtype)
        for n, dtype in enumerate(dtypes)
    ]
    if tensors:
        found = in_one(tensors, as_one(tensors))
        assert [(t.dtype, t.shape) for t in found] == [(t.dtype, t.shape) for t in tensors]
        assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))


def test_no_two_draws_of_a_step_are_the_same(
    data: tuple[Prepared, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak, strong and labeled views are drawn with keys of their own, from seed and step."""
    keys: list[tuple[int | str, ...]] = []

    def record(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
        if threading.current_thread() is threading.main_thread():
            keys.append(key)  # another test's loader may still be reading ahead
        return uniform(shape, *key)

    monkeypatch.setattr(loader, "uniform", record)
    made = views(data, halve(data[0]), seed=17)
    made.make(range(5, 6))
    assert len(keys) >= 5
    assert len(set(keys)) == len(keys)
    assert all(key[0] == 17 and key[-1] == 5 for key in keys)


def test_no_draw_comes_from_the_global_generator(data: tuple[Prepared, DataConfig]) -> None:
    made = views(data, halve(data[0]))
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    made(0)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_views_of_one_image_differ_but_are_of_that_image(
    packed: tuple[Prepared, DataConfig],
) -> None:
    """Without any augmentation the weak and the strong view are the image itself."""
    prepared, config = packed
    plain = config.model_copy(
        update={"crop_padding": 0, "hflip": False, "randaugment_ops": 0, "cutout": 0.0}
    )
    split = halve(prepared)
    batch, hidden_labels = views((prepared, plain), split)(2)
    torch.testing.assert_close(batch.weak, batch.strong)
    rows = sample_rows(split.unlabeled(prepared), 8, 0, "unlabeled", 2)
    assert hidden_labels.tolist() == prepared.labels[rows].tolist()
    expected = torch.cat([images for images, _ in eval_batches(prepared, plain, rows, CPU, 8)])
    torch.testing.assert_close(batch.weak, expected)
    rows = sample_rows(np.array(split.labeled), 4, 0, "labeled", 2)
    assert batch.labels.tolist() == prepared.labels[rows].tolist()
    expected = torch.cat([images for images, _ in eval_batches(prepared, plain, rows, CPU, 8)])
    torch.testing.assert_close(batch.labeled, expected)


def test_diagnostics_never_see_a_label_that_is_trained_on(
    packed: tuple[Prepared, DataConfig],
) -> None:
    """With `data.include_labeled` labeled images are among the unlabeled ones."""
    prepared, _ = packed
    split = halve(prepared)
    both = split.model_copy(update={"include_labeled": True})
    both = both.model_copy(update={"num_unlabeled": len(both.unlabeled(prepared))})
    made, seen = views(packed, both), set()
    for step in range(9):
        rows = sample_rows(both.unlabeled(prepared), 8, 0, "unlabeled", step)
        for row, label in zip(rows.tolist(), made(step).hidden_labels.tolist(), strict=True):
            trained_on = row in split.labeled
            assert label == (-1 if trained_on else prepared.labels[row])
            seen.add(trained_on)
    assert seen == {True, False}


class Stream:
    """Stands for a CUDA stream, and notes what happens."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def record_event(self) -> str:
        self.notes.append(f"{self.name} is done")
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        self.notes.append(f"{self.name} waits for {event}")


@pytest.mark.parametrize("inline", [True, False])
def test_a_gpu_makes_views_beside_the_step_and_their_memory_is_kept(
    inline: bool, packed: tuple[Prepared, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    kept: list[int] = []
    step, beside = Stream("step", notes), Stream("beside", notes)

    @contextmanager
    def using(stream: Stream) -> Iterator[None]:
        notes.append(f"on {stream.name}")
        yield
        notes.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "stream", using)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: step)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, _: kept.append(id(t)))
    made = views(packed, halve(packed[0]))
    made.stream = beside  # type: ignore[assignment]
    made.together = 1
    if inline:
        made.ahead = None
    batch = made(7)
    if made.ahead is not None:
        made.ahead.shutdown()
    whole = ["on beside", "beside is done", "off beside"]
    waits = "step waits for event of beside"
    # The thread makes the next step too, before or after this one is handed out.
    assert [note for note in notes if note != waits] == whole * (1 if inline else 2)
    assert notes.index(waits) >= len(whole)
    assert kept == [id(t) for t in tensors(batch)]
    assert same(batch, views(packed, halve(packed[0]))(7))


@pytest.mark.parametrize("kind", ["files", "packed"])
@pytest.mark.parametrize("num_unlabeled", [0, 8])
def test_neither_test_nor_validation_images_are_ever_loaded(
    kind: str,
    num_unlabeled: int,
    request: pytest.FixtureRequest,
) -> None:
    prepared, config = request.getfixturevalue(kind)
    split = halve(prepared, include_labeled=True)
    opened: set[int] = set()

    class Images(np.ndarray):
        def __getitem__(self, rows: object) -> np.ndarray:
            opened.update(np.asarray(rows).ravel().tolist())
            return np.asarray(self)[rows]  # type: ignore[index]

    class Watched(Prepared):
        def pixels(self, index: int) -> np.ndarray:
            opened.add(int(index))
            return super().pixels(index)

    values = {field.name: getattr(prepared, field.name) for field in dataclasses.fields(prepared)}
    if prepared.images is not None:
        values["images"] = np.asarray(prepared.images).view(Images)
    prepared = Watched(**values)
    made = views((prepared, config), split, num_unlabeled=num_unlabeled)
    for step in range(10):  # several passes over all rows
        made(step)
    allowed = set(split.labeled)
    if num_unlabeled:
        allowed |= set(split.unlabeled(prepared).tolist())
    assert opened == allowed
    assert opened.isdisjoint(split.val)
    assert set(prepared.splits[sorted(opened)].tolist()) == {"train"}


def test_a_method_without_unlabeled_images_gets_none(packed: tuple[Prepared, DataConfig]) -> None:
    batch, hidden_labels = views(packed, halve(packed[0]), num_unlabeled=0)(1)
    assert len(batch.labeled) == len(batch.labels) == 4
    empty = [t for t in tensors(Step(batch, hidden_labels)) if len(t) == 0]
    assert len(empty) == len(tensors(Step(batch, hidden_labels))) - 2


def test_a_method_that_only_reconstructs_gets_the_weak_views_alone(
    data: tuple[Prepared, DataConfig],
) -> None:
    """Their bits are those of any method; of the labeled images only the labels are left."""
    split = halve(data[0])
    whole, part = views(data, split)(4), views(data, split, weak_only=True)(4)
    assert len(whole.batch.strong) == 8
    assert part.batch.labeled.shape == part.batch.strong.shape == (0, 3, 8, 8)
    left = whole.batch._replace(labeled=part.batch.labeled, strong=part.batch.strong)
    assert same(part, Step(left, whole.hidden_labels))


def test_labeled_images_do_not_depend_on_the_unlabeled_ones(
    packed: tuple[Prepared, DataConfig],
) -> None:
    """Methods are compared on the same labeled batches."""
    split = halve(packed[0])
    alone = views(packed, split, num_unlabeled=0)(4).batch
    beside = views(packed, split)(4).batch
    assert torch.equal(alone.labeled, beside.labeled)
    assert torch.equal(alone.labels, beside.labels)


def test_progress_and_places_of_the_unlabeled_images(packed: tuple[Prepared, DataConfig]) -> None:
    prepared, split = packed[0], halve(packed[0])
    batch, _ = views(packed, split, num_steps=40)(10)
    assert batch.progress == pytest.approx(0.25)
    unlabeled = split.unlabeled(prepared)
    rows = sample_rows(unlabeled, 8, 0, "unlabeled", 10)
    assert unlabeled[batch.unlabeled_index.numpy()].tolist() == rows.tolist()


# --- shares


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("kind", ["files", "packed"])
def test_a_process_may_have_no_image_of_a_step(
    kind: str, crop: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, config = request.getfixturevalue(kind)
    shares = {"batch_size": slice(0, 0), "num_unlabeled": slice(1, 1)}
    given = iter(shares.values())
    monkeypatch.setattr(loader, "own_share", lambda count: next(given))
    changed = config.model_copy(update={"crop": crop})
    step = views((prepared, changed), halve(prepared))(0)
    size = (0, config.channels, config.image_size, config.image_size)
    for images in (step.batch.labeled, step.batch.weak, step.batch.strong):
        assert images.shape == size
        assert images.dtype == torch.float32
    assert len(step.batch.labels) > 0  # which are of the whole batch
