"""What the generated cases have in common: how many there are, and what must hold of each."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_cases import CASES, Command, Fuzz
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from support import PROPERTY

from pipeline import __main__ as cli

SCALE = float(
    os.environ.get("SEMIMAE_FUZZ", "1")
)  # other than 1: that many times as many, drawn anew


@pytest.fixture
def fuzz(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Fuzz]:
    """Check a property of generated cases; of all together there are those that CASES promises."""
    wanted = math.ceil(CASES[request.node.originalname.removeprefix("test_")] * SCALE)
    count = 0

    def run(strategy: SearchStrategy[Any], check: Callable[[Any], None], parts: int = 1) -> None:
        @settings(
            max_examples=math.ceil(wanted / parts),
            derandomize=SCALE == 1,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def case(value: Any) -> None:
            nonlocal count
            count += 1
            check(value)

        before = count
        case()
        record_property(PROPERTY, count - before)

    yield run
    assert count >= wanted, f"only {count} of {wanted} cases could be generated"


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Run commands as a user does, in this process and in a workspace of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("SEMIMAE_DATA", raising=False)
    # What `main` sets up for a process of its own must not outlive this one's part of it.
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(*arguments: str) -> str | None:
        monkeypatch.setattr(sys, "argv", ["semimae", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        message = capfd.readouterr().err
        if ended.value.code in (None, 0):
            return None
        assert ended.value.code == 2, message
        assert message.startswith("error: "), message
        assert len(message.splitlines()) == 1, message
        assert message.rstrip("\n").isprintable(), message
        assert len(message) < 2000, message
        return message

    return run
