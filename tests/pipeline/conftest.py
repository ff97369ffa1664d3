from collections.abc import Iterator

import pytest
from stages import StageServer


@pytest.fixture(scope="session")
def server() -> Iterator[StageServer]:
    with StageServer() as running:
        yield running
