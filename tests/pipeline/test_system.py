"""The load of the machine while a stage trains."""

import time
from types import SimpleNamespace

import psutil
import pytest

from pipeline.tracking.system import SystemMetrics


def test_a_sample_says_what_psutil_says_now(monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleNamespace(used=30, total=120, free=90, percent=25.0, available=90)
    monkeypatch.setattr(psutil, "cpu_percent", lambda *_: 12.5)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: said)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: said)
    metrics = SystemMetrics()
    before = time.time_ns() // 1_000_000
    first, second = metrics.sample(), metrics.sample()
    assert (first["step"], second["step"]) == (1, 2)
    assert before <= first["time_ms"] <= second["time_ms"] <= time.time_ns() // 1_000_000
    for row in (first, second):
        assert {name.partition("/")[0] for name in row} == {"system", "step", "time_ms"}
        assert row["system/cpu_utilization_percentage"] == 12.5
        assert row["system/disk_usage_percentage"] == 25.0
        assert row["system/system_memory_usage_percentage"] == 25.0


def test_samples_are_of_their_moment_and_not_an_average_since_the_start() -> None:
    metrics = SystemMetrics()
    cpu = metrics.monitors[0]
    for value in (10.0, 90.0):
        cpu.collect_metrics = lambda value=value: cpu.metrics["cpu_utilization_percentage"].append(
            value
        )
        assert metrics.sample()["system/cpu_utilization_percentage"] == value
