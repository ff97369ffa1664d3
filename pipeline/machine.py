"""The machine that trains a run, and the arithmetic that it takes."""

from typing import Any

from semimae.options.cell import Cell


def machine(cell: Cell, num_classes: int) -> dict[str, Any]:
    """Return what ``train/machine.json`` says of the run that begins here.

    Call it before the processes connect: what it counts, it counts alone.

    Args:
        cell: What is trained.
        num_classes: Classes of the dataset.
    """
    import torch

    from semimae.distributed import launched_world
    from semimae.engine.device import device_name, set_up_device
    from semimae.evaluation.flops import training_flops

    device = set_up_device(cell.train)
    try:
        flops = training_flops(cell, num_classes)
    except (NotImplementedError, RuntimeError):  # a module that asks for the values of its tensors
        flops = None  # is trained all the same
    return {
        "torch": torch.__version__,
        "device": device.type,
        "device_name": device_name(device),
        "processes": launched_world().size,
        "threads": torch.get_num_threads(),  # of each process
        "flops": flops,
    }
