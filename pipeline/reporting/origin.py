"""Where a run's weights come from, and which run of MLflow holds it: read from files alone."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.workspace import MACHINE, ORIGIN, digest, dvc_root, mlflow_record, read_json


class Origin(NamedTuple):
    """Code, machine and arithmetic of a training run; None where an earlier version ran it."""

    commit: str | None = None
    code: str | None = None
    torch: str | None = None
    device: str | None = None
    device_name: str | None = None
    processes: int | None = None
    threads: int | None = None
    flops: int | None = None  # None also where a model cannot be counted

    @property
    def machine(self) -> str:
        """The device for people."""
        if self.device is None:
            return "not recorded"
        many, threads = f"{self.processes} x " if self.processes != 1 else "", ""
        if self.device == "cpu":
            threads = f", {self.threads} thread" + "s" * (self.threads != 1)
        return f"{many}{self.device} ({self.device_name}{threads})"


class MLflowRun(NamedTuple):
    """A run of MLflow as it was known when the cell was logged."""

    run_id: str
    address: str  # of its page, while MLflow's UI runs


def read_origin(train: Path) -> Origin:
    """Read what the training stage has noted."""
    found: dict[str, Any] = {}
    for name in (ORIGIN, MACHINE):
        path = train / name
        found |= read_json(path) if path.is_file() else {}
    commit = found.get("mlflow.source.git.commit")
    return Origin(commit, **{name: found.get(name) for name in Origin._fields if name != "commit"})


def read_mlflow_run(train: Path, identity: str) -> MLflowRun | None:
    """Return the run that these very weights were logged to, if they were from this machine."""
    record = mlflow_record(dvc_root(), identity)
    found = read_json(record) if record.is_file() else None
    if found is None or found["weights"] != digest(train):
        return None
    address = "{ui}/#/experiments/{experiment_id}/runs/{run_id}".format(**found)
    return MLflowRun(found["run_id"], address)
