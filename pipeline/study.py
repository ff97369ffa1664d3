"""``study``: a recipe's whole grid, at equal steps and at equal time, kept in results/."""

from typing import Annotated

import typer

from pipeline import recipe
from pipeline.grid import grid
from pipeline.results import keep_results
from pipeline.time_factors import time_factors
from pipeline.workspace import dvc_root
from semimae.options.params import Params


def study(
    name: recipe.Name,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Cells at the same time.")] = 1,
    equal_time: Annotated[bool, typer.Option(help="Whether to run equal time too.")] = True,
) -> None:
    """Run or resume a recipe's grid, then the same at equal time, and keep what came out.

    What is finished is not run again, so the same command continues a study that was stopped.

    Example: python -m pipeline study study_cifar10_cpu
    """
    from semimae.engine.device import set_up_device

    root = dvc_root()
    params_file, asked = root / "params.yaml", recipe.find(root, name)
    if recipe.at_equal_steps(params_file) != recipe.at_equal_steps(asked.path):
        recipe.use(name)
    grid(jobs)
    params = Params.read(params_file)
    if equal_time and "time" not in params.ablation.budget:
        # Of a CPU, processor time: other programs do not disturb it.
        time_factors(cpu=set_up_device(params.train).type == "cpu", write=True)
        grid(jobs)
    keep_results(name.removeprefix("study_"), title=asked.description.rstrip("."))
