"""The processes of one job: one that dies ends all of them, and its own words say why."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from support import REPO, Time, wait_until

from pipeline import launch as launch_module
from pipeline.launch import _wait, launch

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("launch_worker.py")


def job(event: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return launch([sys.executable, str(WORKER), event], 2)


def test_a_process_that_raises_ends_the_job_with_its_own_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job("raises", monkeypatch) == 1
    text = capfd.readouterr().err
    assert text.count("Traceback") == 1, text
    assert "ZeroDivisionError: of process 1 alone" in text
    assert "process 0: another process of the run has ended, so this one ends too" in text


def test_a_process_that_is_killed_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job("dies", monkeypatch) == 128 + signal.SIGKILL
    text = capfd.readouterr().err
    assert "Traceback" not in text
    assert "error: process 1 of 2 was ended by SIGKILL" in text


class Fake:
    """A process that has ended with a status, or never ends."""

    def __init__(self, status: int | None) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (-9, 137), (3, 3)])
def test_the_others_have_less_than_a_minute_to_end(
    status: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    monkeypatch.setattr(launch_module, "time", clock)
    assert _wait([Fake(None), Fake(status), Fake(0)]) == expected  # type: ignore[list-item]
    assert 0 < clock.seconds < 60


def test_a_stop_reaches_all_processes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop_when_connected() -> None:
        seen: list[str] = []

        def both_are_connected() -> bool:
            seen.append(capfd.readouterr().out)
            return "".join(seen).count("connected") == 2

        wait_until(both_are_connected)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_connected)
    thread.start()
    status = job("waits", monkeypatch)
    thread.join()
    assert status == 130
    assert capfd.readouterr().err == "stopped, as asked\n"
