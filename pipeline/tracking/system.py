"""The load of the machine while a stage trains, under the names of MLflow's system metrics."""

import contextlib
import time
from typing import Any

from pipeline.tracking.store import Row


class SystemMetrics:
    """Samples CPU, memory, disk and network, and NVIDIA GPUs if `nvidia-ml-py` is installed.

    MLflow's own monitor would contact the server from its own thread. Here the samples are sent
    like all other rows, so an unavailable server is reported only once.
    """

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no library, no GPU
            self.monitors.append(GPUMonitor())
        self.count = 0
        self._collect()  # CPU load is measured between calls

    def sample(self) -> Row:
        """Return the load since the last call, as a row with ``step`` and ``time_ms``."""
        values = self._collect()
        self.count += 1
        return values | {"step": self.count, "time_ms": time.time_ns() // 1_000_000}

    def _collect(self) -> Row:
        values: Row = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= {f"system/{k}": v for k, v in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return values
