"""The machine that trains a run, and how many operations the training takes."""

from typing import Any

from semimae.options.cell import Cell


def machine(cell: Cell, num_classes: int) -> dict[str, Any]:
    """Return the contents of ``train/machine.json`` for the run that begins here.

    Call it before the processes connect, because it runs a step to count operations.

    Args:
        cell: The cell to train.
        num_classes: Classes of the dataset.
    """
    import torch

    from semimae.distributed import launched_world
    from semimae.engine.device import device_name, set_up_device
    from semimae.evaluation.flops import training_flops

    device = set_up_device(cell.train)
    try:
        flops = training_flops(cell, num_classes)
    except (NotImplementedError, RuntimeError):  # a module that reads the values of its tensors
        flops = None  # can still be trained
    return {
        "torch": torch.__version__,
        "device": device.type,
        "device_name": device_name(device),
        "processes": launched_world().size,
        "threads": torch.get_num_threads(),  # per process
        "flops": flops,
    }
