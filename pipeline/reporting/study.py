"""The evidence with its comparisons made: what every section of the report draws on."""

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.reporting.blocks import Value, count
from pipeline.reporting.compare import (
    Comparison,
    Grid,
    Labels,
    Setting,
    Verdict,
    by_setting,
    fractions,
    method_comparisons,
    ranked,
    setting_comparisons,
    verdict,
)
from pipeline.reporting.evidence import Evidence, Result
from semimae.options.cell import Cell
from semimae.options.grid import PLAIN

_PLAIN_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # what Hydra needs no quotes for


@dataclass(frozen=True, eq=False)
class Study:
    """The grid's settings and what was found about them."""

    evidence: Evidence
    grid: Grid
    baselines: Grid
    methods: list[str]  # in the order of params.yaml, which colors follow
    fractions: list[Labels]
    between_methods: list[Comparison]
    within_methods: list[Comparison]
    verdicts: dict[Labels, Verdict]
    timed: Grid  # all methods for the same time
    between_timed: list[Comparison]
    asked: Setting  # that of params.yaml

    @property
    def with_baselines(self) -> Grid:
        """All settings of equal budget, those last that the grid is held against."""
        return self.grid | self.baselines

    def best_settings(self, label_fraction: Labels) -> list[Setting]:
        """Return each method's best setting by validation, in the order of the methods."""
        best = ranked(self.grid, label_fraction, self.asked)
        return sorted(best, key=lambda setting: self.methods.index(setting.method))

    def named(self, setting: Setting, *, timed: bool = False) -> Value:
        """Return a setting's name with a link to its runs, for equal steps or for equal time."""
        results = (self.timed if timed else self.with_baselines)[setting]
        return Value(setting.name, link=f"#{results[0].anchor}")

    def result_of(self, label_fraction: Labels) -> Result:
        """Return one of the results with a label fraction."""
        settings = itertools.chain(self.grid.items(), self.timed.items())
        return next(r[0] for s, r in settings if s.label_fraction == label_fraction)

    def num_labeled(self, label_fraction: Labels) -> int:
        """Return how many images a label fraction labels."""
        return self.result_of(label_fraction).num_labeled

    def labels(self, label_fraction: Labels) -> str:
        """Return a label fraction for people, with its number of images."""
        result = self.result_of(label_fraction)
        number = "" if label_fraction is None else f" ({count(result.num_labeled)} images)"
        return result.labels + number

    def short_labels(self, label_fraction: Labels) -> str:
        """Return the same, short enough for a table's cell."""
        number = count(self.num_labeled(label_fraction))
        if label_fraction is None:
            return f"{number}\N{NO-BREAK SPACE}labels"
        return f"{100 * label_fraction:g}%\N{NO-BREAK SPACE}({number})"

    def file_part(self, label_fraction: Labels) -> str:
        """Return what stands for a label fraction in the name of a file."""
        if label_fraction is None:
            return f"{self.num_labeled(label_fraction)}_labels"
        return f"{label_fraction:g}"

    @property
    def choice(self) -> str:
        """Say which of a method's settings stands for it."""
        varied = "mask ratio" if self.evidence.params.ablation.variant == [PLAIN] else "setting"
        images = count(self.evidence.results[0].num_val)
        return f"at the {varied} that {images} validation images prefer"

    @property
    def main_fraction(self) -> Labels:
        """The label fraction to speak of first: the headline's, if the grid, not empty, has it."""
        wanted = self.evidence.params.label_fraction
        return wanted if wanted in self.fractions else self.fractions[0]

    def num_settings(self, label_fraction: Labels) -> dict[str, int]:
        """Return how many settings each method has for a label fraction."""
        settings = [s for s in self.grid if s.label_fraction == label_fraction]
        return dict(Counter(setting.method for setting in settings))

    @property
    def num_seeds(self) -> int:
        """Return the largest number of seeds that a setting has."""
        return max((len(results) for results in self.grid.values()), default=0)

    @property
    def command(self) -> str:
        """Return the command that makes the grid again, whatever params.yaml says by then."""
        params = self.evidence.params
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
            values += label_options(params.cell())
        return exp_run(values)


def make_study(evidence: Evidence) -> Study:
    """Compare the grid's settings."""
    grid = by_setting(evidence.grid)
    cell = evidence.params.cell()
    asked = Setting(cell.method, cell.mask_ratio, cell.label_fraction)
    between_methods = method_comparisons(grid, asked)
    cells = [evidence.params.ablation.method, [r.cell.method for r in evidence.results]]
    return Study(
        evidence=evidence,
        grid=grid,
        baselines=by_setting(evidence.baselines),
        methods=list(dict.fromkeys(method for group in cells for method in group)),
        fractions=fractions(grid),
        between_methods=between_methods,
        within_methods=setting_comparisons(grid, asked),
        verdicts={f: verdict(grid, f, between_methods, asked) for f in fractions(grid)},
        timed=(timed := by_setting(evidence.timed)),
        between_timed=method_comparisons(timed, asked),
        asked=asked,
    )


def label_options(cell: Cell) -> list[str]:
    """Return the settings that choose a cell's labeled images, and undo any other choice."""
    return [
        f"label_fraction={_given(cell.label_fraction)}",
        f"num_labels={_given(cell.num_labels)}",
        f"data.labeled_list={_given(cell.data.labeled_list)}",
    ]


def exp_run(values: list[str]) -> str:
    """Return the command that runs the pipeline with some values in place of params.yaml's."""
    return " ".join(["dvc exp run", *(f"-S {shlex.quote(value)}" for value in values)])


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
