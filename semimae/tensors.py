"""Files of tensors."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: If it cannot be written.
    """
    try:
        on_host = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(on_host, path, metadata=metadata)
    except SafetensorError as error:  # hides the system's number in a text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
