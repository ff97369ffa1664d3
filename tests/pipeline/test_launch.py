"""The processes of one job: one that dies ends all of them, and its own words say why."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support import REPO

from pipeline.launch import launch

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("launch_worker.py")


def job(event: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, float]:
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    status = launch([sys.executable, str(WORKER), event], 2)
    return status, time.monotonic() - began


def test_a_process_that_raises_ends_the_job_with_its_own_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, seconds = job("raises", monkeypatch)
    text = capfd.readouterr().err
    assert status == 1
    assert seconds < 60
    assert text.count("Traceback") == 1, text
    assert "ZeroDivisionError: of process 1 alone" in text
    assert "process 0: another process of the run has ended, so this one ends too" in text


def test_a_process_that_is_killed_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, seconds = job("dies", monkeypatch)
    text = capfd.readouterr().err
    assert status == 1
    assert seconds < 60
    assert "Traceback" not in text
    assert "error: process 1 of 2 was ended by SIGKILL" in text


def test_a_stop_reaches_all_processes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop_when_connected() -> None:
        seen = ""
        while seen.count("connected") < 2:
            time.sleep(0.05)
            seen += capfd.readouterr().out
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_connected)
    thread.start()
    status, _ = job("waits", monkeypatch)
    thread.join()
    assert status == 130
    assert capfd.readouterr().err == "stopped, as asked\n"
