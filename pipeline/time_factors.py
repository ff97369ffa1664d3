"""``time-factors``: how many steps of each method take as long as the headline's run."""

from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.round_trip import dump, load
from pipeline.workspace import dvc_root
from semimae.files import write_text
from semimae.options.grid import BUDGETS, PLAIN
from semimae.options.params import Params
from semimae.types import UserError


def time_factors(
    cpu: Annotated[
        bool,
        typer.Option("--cpu", help="By processor time: for CPUs that other programs share."),
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Put them into params.yaml, and ask for both budgets.")
    ] = False,
) -> None:
    """Measure ablation.time_factor on the grid's finished runs.

    A factor is the time of the headline's method over the method's own, for equal steps, each a
    mean over seeds and label fractions at the headline's mask ratio where the grid has it.

    Example: python -m pipeline time-factors --write
    """
    from pipeline.reporting.evidence import read_evidence

    root = dvc_root()
    params = Params.read(root / "params.yaml")
    seconds: dict[str, list[float]] = {}
    results = read_evidence(root, params).grid
    for method in params.ablation.method:
        of_method = [r for r in results if (r.cell.method, r.variant) == (method, PLAIN)]
        at_ratio = [r for r in of_method if r.cell.mask_ratio in (None, params.mask_ratio)]
        taken = at_ratio or of_method
        seconds[method] = [r.cpu_seconds if cpu else r.seconds for r in taken]
    lacking = [m for m in {params.method: 0, **seconds} if not seconds.get(m)]
    if lacking:
        raise UserError(
            f"no finished run of {', '.join(lacking)} in the grid; add it to ablation.method and "
            "run `python -m pipeline grid` with ablation.budget: [images]."
        )
    mean = {method: sum(values) / len(values) for method, values in seconds.items()}
    factors = {method: float(f"{mean[params.method] / own:.3g}") for method, own in mean.items()}
    flat = ", ".join(f"{method}: {factor:g}" for method, factor in factors.items())
    typer.echo(f"time_factor: {{{flat}}}")
    if write:
        _write(root / "params.yaml", factors)


def _write(path: Path, factors: dict[str, float]) -> None:
    """Ask for both budgets in a params file; comments and all else stay."""
    tree = load(path)
    asked = {"budget": CommentedSeq(BUDGETS), "time_factor": CommentedMap(factors)}
    for name, value in asked.items():
        value.fa.set_flow_style()
        tree["ablation"][name] = value
    write_text(path, dump(tree))
