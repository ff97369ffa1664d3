from collections.abc import Callable
from pathlib import Path

import pytest
from data_helpers import write_images


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write images into a fresh root; return it."""

    def write(*names: str) -> Path:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        write_images(root, list(names))
        return root

    return write
