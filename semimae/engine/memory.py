"""Whether a run can fit into memory at all: a lower bound, so that nothing that fits is refused."""

import os

import torch

from semimae.options.backbone import CNNConfig
from semimae.options.cell import Cell
from semimae.types import UserError

_FLOAT = 4  # bytes
_COPIES = 5  # of each weight: itself, its average, its gradient, two moments of the optimizer
_FROZEN_COPIES = 2  # of these, of a weight that is not trained
_GIB = 2**30


def check_memory(cell: Cell, device: torch.device) -> None:
    """Refuse what the device cannot hold; the system would end the process without a word.

    Counted are the views of a step in this process, the weights of a transformer's blocks with
    their copies, and, per block, the tokens that it keeps for the gradient; of a convolutional
    network its largest layer.

    Raises:
        UserError: If even that is more than the device has.
    """
    views, model = _view_bytes(cell), _model_bytes(cell)
    has = _device_bytes(device)
    if views + model > has:
        raise UserError(
            f"a step needs {(views + model) / _GIB:.0f} GiB at least, {views / _GIB:.0f} for "
            f"images and {model / _GIB:.0f} for the model; {device.type} has {has / _GIB:.0f}; "
            "lower train.batch_size, train.mu, data.image_size or sizes in section backbone, or "
            "raise train.processes."
        )


def images_fit(cell: Cell, count: int, device: torch.device) -> bool:
    """Tell whether ``count`` packed images take at most half of what a step leaves free on a GPU.

    What a step needs is counted as in ``check_memory``, which is too little: hence the half.
    """
    if device.type != "cuda":  # it shares the host's memory
        return True
    free, _ = torch.cuda.mem_get_info(device)
    images = count * cell.data.channels * cell.data.image_size**2
    return images <= (free - _view_bytes(cell) - _model_bytes(cell)) / 2


def _view_bytes(cell: Cell) -> int:
    images = cell.train.batch_size + 2 * cell.num_unlabeled  # weak and strong
    share = images // cell.train.processes
    return share * cell.data.channels * cell.data.image_size**2 * _FLOAT


def _model_bytes(cell: Cell) -> int:
    if isinstance(cell.backbone, CNNConfig):  # its last convolution, and what its first one returns
        wide, first = cell.backbone.widths[-1], cell.backbone.width
        weights = 9 * wide * (wide // 2) if cell.backbone.depth > 1 else 0
        kept = cell.train.batch_size * first * cell.data.image_size**2
        return (weights * _COPIES + kept) * _FLOAT
    width, depth = cell.backbone.embed_dim, cell.backbone.depth
    if not (isinstance(width, int) and isinstance(depth, int)):
        return 0  # as timm's name says
    weights = depth * 4 * width**2  # of attention alone
    side = cell.backbone.patches_per_side(cell.data.image_size) or 0  # of timm's it is not known
    copies = _COPIES if cell.backbone.tuning == "full" else _FROZEN_COPIES
    micro = max(1, cell.train.batch_size // cell.train.processes // cell.train.accumulate)
    tokens = 0 if cell.method == "mae" else micro * side**2 * width * depth  # mae hides most
    return (weights * copies + tokens) * _FLOAT


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
