from collections.abc import Iterator
from pathlib import Path

import pytest
from report_helpers import Workspace, build_workspace
from stages import StageServer

from pipeline.reporting import page


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Returns a function that writes params, dataset and runs."""
    return build_workspace(tmp_path, monkeypatch)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the figures empty, for tests that look at words and numbers: drawing takes seconds."""
    monkeypatch.setattr(page, "draw", lambda *given: "<svg/>")
    monkeypatch.setattr(page, "_vega", lambda: "")


@pytest.fixture(scope="session")
def server() -> Iterator[StageServer]:
    with StageServer() as running:
        yield running
