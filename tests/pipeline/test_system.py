"""The load of the machine while a stage trains."""

import time

import psutil

from pipeline.tracking.system import SystemMetrics


def test_a_sample_says_what_psutil_says_now() -> None:
    metrics = SystemMetrics()
    before = time.time_ns() // 1_000_000
    first, second = metrics.sample(), metrics.sample()
    assert (first["step"], second["step"]) == (1, 2)
    assert before <= first["time_ms"] <= second["time_ms"] <= time.time_ns() // 1_000_000
    for row in (first, second):
        assert {name.partition("/")[0] for name in row} == {"system", "step", "time_ms"}
        assert 0 <= row["system/cpu_utilization_percentage"] <= 100
        disk = psutil.disk_usage("/")
        assert abs(row["system/disk_usage_percentage"] - disk.percent) < 5
        used = psutil.virtual_memory()
        share = 100 * used.used / used.total
        assert abs(row["system/system_memory_usage_percentage"] - share) < 20  # others run, too


def test_samples_are_of_their_moment_and_not_an_average_since_the_start() -> None:
    metrics = SystemMetrics()
    cpu = metrics.monitors[0]
    for value in (10.0, 90.0):
        cpu.collect_metrics = lambda value=value: cpu.metrics["cpu_utilization_percentage"].append(
            value
        )
        assert metrics.sample()["system/cpu_utilization_percentage"] == value
