"""Run the cells of the grid with Ray, then let the grid record them. Needs `pip install ray`.

Usage: dvc repro prepare inputs && python examples/grid_on_ray.py
"""

import subprocess
import sys
from pathlib import Path

import ray

from semimae import Params

WORKERS, GPUS = 2, 0  # at a time; of each
project = Path(__file__).parents[1]
pipeline = [sys.executable, "-m", "pipeline"]


@ray.remote(num_cpus=1, num_gpus=GPUS)
def run(name: str) -> int:
    """Split, train and score one cell; on a cluster the project is on a shared disk."""
    return subprocess.run([*pipeline, "cell", name], cwd=project, check=False).returncode


ray.init(num_cpus=WORKERS)
# Of points of the grid that are the same cell, one is enough.
names = [points[0].folder for points in Params.read(project / "params.yaml").grid().values()]
failed = [
    name for name, code in zip(names, ray.get([run.remote(n) for n in names]), strict=True) if code
]
ray.shutdown()
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
subprocess.run([*pipeline, "grid"], cwd=project, check=True)
