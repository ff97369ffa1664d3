from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import write_images
from hypothesis import HealthCheck, settings
from support import PROPERTY, REPO, changed_params

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.options.cell import Cell

# A slow machine is no reason to fail.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums are in the same order on every machine, and parallel test runs do not fight."""
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many cases the tests of tests/fuzz have generated, over all processes."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    counts = [value for r in reports for name, value in r.user_properties if name == PROPERTY]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} {PROPERTY} of bad input")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; absent from most clones."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which this machine does not have")
    return folder


@pytest.fixture(scope="session")
def small_cell() -> Callable[..., Cell]:
    """Make a cell that trains in a second; changes are named ``section__field``."""

    def make(method: str = "semi_mae", **changes: object) -> Cell:
        return changed_params(method=method, **changes).cell()

    return make


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """scikit-learn's digits, prepared for ``small_cell``."""
    root = tmp_path_factory.mktemp("digits")
    prepare("digits", changed_params().data, root, root / "prepared")
    return Prepared.read(root / "prepared")


@pytest.fixture(scope="session")
def digits_split(digits: Prepared) -> Split:
    """40 labeled digits."""
    return make_split(digits, seed=0, num_labels=40, val_fraction=0.15, include_labeled=True)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write images into a fresh root; return it."""

    def write(*names: str) -> Path:
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        write_images(root, list(names))
        return root

    return write
