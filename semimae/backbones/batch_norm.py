"""BatchNorm's running statistics (arXiv:1502.03167): buffers that training moves."""

from torch import Tensor, nn


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return the running means and variances that a module updates while it is trained.

    Where there are some, an image's features in training depend on the others in its pass.
    """
    return [
        buffer
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2].startswith("running_")
    ]
