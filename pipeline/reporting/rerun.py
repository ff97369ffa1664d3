"""Commands that make runs again, whatever params.yaml says by then."""

import re
import shlex
from collections.abc import Mapping

from semimae.options.cell import Cell
from semimae.options.grid import PLAIN
from semimae.options.params import Params

_PLAIN_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # what Hydra needs no quotes for


def grid_command(params: Params) -> str:
    """Return the command that makes the grid."""
    ablation = params.ablation.model_dump()
    unused = {"time_factor"} if "time" not in params.ablation.budget else set()
    unused |= set() if params.ablation.baseline.variant else {"baseline"}
    if params.ablation.variant == [PLAIN] and "baseline" in unused:
        unused |= {"changes"}
    values = [
        # Without ++ Hydra refuses names that the file does not have yet.
        f"{'++' if isinstance(value, dict) else ''}ablation.{name}={_given(value)}"
        for name, value in ablation.items()
        if name not in unused
    ]
    if None in params.ablation.label_fraction:
        values += _label_options(params.cell())
    return exp_run(values)


def headline_command(cell: Cell) -> str:
    """Return the command that makes a headline."""
    ratio = [] if cell.mask_ratio is None else [f"mask_ratio={cell.mask_ratio}"]
    return exp_run([f"method={cell.method}", *ratio, *_label_options(cell), f"seed={cell.seed}"])


def exp_run(values: list[str]) -> str:
    """Return the command that runs the pipeline with some values in place of params.yaml's."""
    return " ".join(["dvc exp run", *(f"-S {shlex.quote(value)}" for value in values)])


def _label_options(cell: Cell) -> list[str]:
    """Return the settings that choose a cell's labeled images, and undo any other choice."""
    return [
        f"label_fraction={_given(cell.label_fraction)}",
        f"num_labels={_given(cell.num_labels)}",
        f"data.labeled_list={_given(cell.data.labeled_list)}",
    ]


def _given(value: object) -> str:
    """Return a value as Hydra reads it."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{_given(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_given, value))}]"
    if isinstance(value, str) and not _PLAIN_TEXT.fullmatch(value):
        quoted = value.replace("\\'", "\\\\'").replace("'", "\\'")
        return f"'{quoted}'"
    return "null" if value is None else str(value)
