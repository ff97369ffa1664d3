"""The code and the machine that train a run, and the arithmetic that it takes."""

from typing import Any

from pipeline.workspace import code_hash
from semimae.cell import Cell


def machine(cell: Cell, num_classes: int) -> dict[str, Any]:
    """Return what ``train/machine.json`` says of the run that begins here.

    Call it before the processes connect: what it counts, it counts alone.

    Args:
        cell: What is trained.
        num_classes: Classes of the dataset.
    """
    import torch

    from semimae.distributed import launched_world
    from semimae.engine.device import device_name, setup_device
    from semimae.engine.flops import training_flops

    device = setup_device(cell.train)
    try:
        flops = training_flops(cell, num_classes)
    except (NotImplementedError, RuntimeError):  # a module that asks for the values of its tensors
        flops = None  # is trained all the same
    return {
        "code": code_hash(),  # of semimae/, also where changes are not committed
        "torch": torch.__version__,
        "device": device.type,
        "device_name": device_name(device),
        "processes": launched_world().size,
        "threads": torch.get_num_threads(),  # of each process
        "flops": flops,
    }
