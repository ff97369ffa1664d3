"""No step, and no view, asks what a device has computed: on a GPU the host would have to wait.

Tensors without values stand for the device's: whatever reads one ends in an error, also ``tolist``
and ``numpy``, which no dispatch mode sees on a CPU. They also stand for those of a CUDA device that
is not there, where a copy from the host shows that waits for the device.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import SMALL, WITH_OWN_PHASE, changed_params, section
from torch import Tensor, empty_like, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semimae.data.augment import num_draws, strong_view, to_float, weak_view
from semimae.data.erasing import ERASING_DRAWS, erase
from semimae.data.labeled import MIX_DRAWS, mix_neighbors, soft_targets
from semimae.engine import graph
from semimae.engine.bad_steps import BadSteps
from semimae.engine.checkpoint import Checkpoints, TrainState
from semimae.engine.device import make_autocast
from semimae.engine.loop import train
from semimae.engine.meter import Terms
from semimae.engine.optim import build_optimizer
from semimae.methods.registry import build_method
from semimae.model import build_model
from semimae.options.cell import Cell
from semimae.types import Batch, Interrupted, Step

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GRAPH = "graph"  # on CUDA, as it is recorded
CLASSES, UNLABELED = 10, 50  # of the dataset
VARIANTS: dict[str, dict[str, Any]] = {name: {"method": name} for name in WITH_OWN_PHASE} | {
    "micro-batches": {"method": "freematch", "train__accumulate": 2},
    "mixed": {"method": "semi_mae", "pseudo_label__mixup": True},
    "aligned": {"method": "semi_mae", "pseudo_label__alignment": "labeled"},
    "regularized": {
        "method": "semi_mae",
        "mim__weighting": "gradient",
        "mim__weighting_every": 1,
        "train__drop_path": 0.5,
        "optim__grad_clip": None,
    },
    "bf16": {"method": "semi_mae", "train__precision": "bf16"},
    "blocks": {
        "method": "semi_mae",
        "data__image_size": 12,
        "mim__masking": "block",
        "mim__target": "teacher_features",
    },
}


class Unread(BadSteps):
    """Before a checkpoint the host may wait; that is not what is tested."""

    def check(self, most: int) -> tuple[int, int]:
        return 0, 0


class Copies(TorchDispatchMode):
    """Counts copies from the host to the device that wait: also numbers that become a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in ("_to_copy", "copy_"):
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], out)
            waits = not ((kwargs or {}).get("non_blocking") or args[2:3] == (True,))
            if source.device.type == "cpu" and target.device.type != "cpu" and waits:
                self.seen.append(f"{name} of {list(source.shape)}")
        return out


class NoHost(TorchDispatchMode):
    """Refuses tensors of the host: a CUDA graph can not copy them, or keeps what they were."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        assert all(t.device.type == "cuda" for t in tensors), func
        if func is torch.ops.aten._fused_adamw_.tensor_lr:
            return None  # in place; tensors without values do not know of it
        return func(*args, **(kwargs or {}))


class Recorder:
    """Makes the calls that would be recorded."""

    recorded = 0

    def run(self, call: Callable[[], Terms]) -> Terms:
        return call()

    def record(self, call: Callable[[], Terms]) -> tuple[Terms, Callable[[], None]]:
        self.recorded += 1
        with NoHost():
            return call(), lambda: None


def without_values(module: nn.Module, device: torch.device) -> None:
    """Replace all weights by tensors of the active mode."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(empty_like(p, device=device), p.requires_grad)
        for name, b in part._buffers.items():
            part._buffers[name] = None if b is None else empty_like(b, device=device)


def batch_of(cell: Cell) -> Step:
    labeled, unlabeled = cell.train.batch_size, cell.num_unlabeled
    data = cell.data
    patches = (data.image_size // cell.backbone.patch_size) ** 2

    def images(count: int) -> Tensor:
        return torch.empty(count, data.channels, data.image_size, data.image_size)

    def classes(count: int) -> Tensor:
        return torch.empty(count, dtype=torch.long)

    paths = torch.empty(labeled + unlabeled, 2 * SMALL["backbone__depth"])  # type: ignore[operator]
    batch = Batch(
        labeled=images(labeled),
        labels=classes(labeled),
        weak=images(unlabeled),
        strong=images(unlabeled),
        mask_noise=torch.empty(unlabeled, patches),
        mix_noise=torch.empty(unlabeled, 4),
        unlabeled_index=classes(unlabeled),
        progress=0.5,
        accumulate=cell.train.accumulate,
        paths=paths if cell.train.drop_path else None,
    )
    return Step(batch, classes(unlabeled))


@pytest.mark.parametrize("where", [CPU, CUDA, GRAPH], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_between_two_rows_waits_for_nothing(
    variant: str, where: torch.device | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, recorder = where, None
    if not isinstance(device, torch.device):
        device, recorder = CUDA, Recorder()
        monkeypatch.setattr(graph, "_PLAIN", 0)
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)  # no mode knows of it
    if device == CUDA:  # the backward pass is torch's own, and its engine wants a real card
        monkeypatch.setattr(Tensor, "backward", lambda loss: backward())
        monkeypatch.setattr(torch.autograd, "grad", lambda loss, of, **_: list(map(empty_like, of)))
    rhythm = dict.fromkeys(("train__log_every", "train__eval_every", "train__save_every"), 99)
    changes = {"pseudo_label__skip_rejected": "never", "train__gradient_every": 1}
    params = changed_params(**changes, **rhythm, **VARIANTS[variant])
    cell = params.cell()
    model = build_model(
        cell.backbone,
        cell.mim,
        image_size=cell.data.image_size,
        channels=cell.data.channels,
        num_classes=CLASSES,
        seed=0,
    )
    teacher = copy.deepcopy(model).requires_grad_(False)
    method = build_method(cell.options, CLASSES, UNLABELED)
    rows: list[str] = []

    def backward() -> None:
        for parameter in model.parameters():
            parameter.grad = empty_like(parameter) if parameter.requires_grad else None

    steps = 1 if device == CUDA else 2
    copies = Copies()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (model, teacher, method):
            without_values(module, device)
        optimizer = build_optimizer(model, model.backbone, cell.optim)
        state = TrainState(model, teacher, method, optimizer, bad_steps=Unread(device))
        with device:
            step = batch_of(cell)

        class Nowhere(Checkpoints):
            def __init__(self) -> None:
                pass

            def save(self, state: TrainState) -> None:
                pass

        with copies, pytest.raises(Interrupted):
            train(
                state,
                lambda number: step,
                cell.train,
                params.train,
                cell.optim,
                autocast=make_autocast(cell.train, CPU, cell.backbone.embed_dim),
                evaluate=lambda state: {},
                on_row=lambda kind, row: rows.append(kind),
                checkpoints=Nowhere(),
                should_stop=lambda: state.step == steps,
                recorder=recorder,
            )
    assert state.step == steps
    assert rows == []
    assert copies.seen == []
    assert recorder is None or recorder.recorded == steps
    assert state.meter.sums  # what the rows will be made of has been computed


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu().numpy(),
        lambda x: bool((x > 0).all()),
        lambda x: torch.empty(3)[: int(x.sum())],
    ],
)
@pytest.mark.filterwarnings("default")
def test_a_tensor_without_values_cannot_be_read(call: Callable[[Tensor], object]) -> None:
    with FakeTensorMode(), pytest.raises(Exception):  # noqa: B017, PT011 - each has its own
        call(torch.zeros(3))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.new_tensor(0.5),
        lambda x: torch.tensor([1, 2], device=CUDA),
        lambda x: x[[0, 1]],
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: torch.zeros(3).to(CUDA),
    ],
)
def test_a_copy_to_the_device_that_waits_is_seen(call: Callable[[Tensor], object]) -> None:
    with FakeTensorMode(), Copies() as copies:
        x = torch.zeros(3, device=CUDA)
        x.copy_(torch.zeros(3), non_blocking=True)
        torch.full((), 0.5, device=CUDA)
        assert copies.seen == []
        call(x)
    assert len(copies.seen) == 1


@pytest.mark.parametrize("size", [8, 32, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_wait_for_nothing(size: int, channels: int) -> None:
    images = torch.empty(128, channels, size, size, dtype=torch.uint8, device="meta")
    options = {"crop": "pad", "crop_padding": 2, "hflip": True, "randaugment_ops": 3, "cutout": 0.5}
    options |= {"color_jitter": 0.4, "randaugment_magnitude_std": 1.5}
    config = section("data", image_size=size, channels=channels, **options)
    draws = torch.rand(128, num_draws(config, strong=True), generator=torch.Generator())
    with Copies() as copies:
        for view in (
            weak_view(images, draws[:, : num_draws(config, strong=False)], config),
            strong_view(images, draws, config),
        ):
            view = to_float(view, (0.5,) * channels, (0.5,) * channels)
            for fill in (None, lambda place, number: torch.zeros(number)):
                erased = erase(view, torch.rand(128, ERASING_DRAWS), 0.5, fill)
                assert erased.device.type == "meta"
    assert copies.seen == []


def test_mixing_reads_nothing_from_the_device() -> None:
    options = section("labeled", mixup=0.8, cutmix=1.0)
    images, targets = torch.empty(9, 3, 8, 8, device="meta"), torch.empty(9, 4, device="meta")
    mixed, mixed_targets = mix_neighbors(images, targets, torch.rand(8, MIX_DRAWS), options)
    assert mixed.shape == (8, 3, 8, 8)
    assert mixed_targets.shape == (8, 4)
    labels = torch.empty(9, dtype=torch.long, device="meta")
    assert soft_targets(labels, 4, 0.1).device.type == "meta"
