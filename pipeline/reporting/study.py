"""The evidence with its comparisons made: what every section of the report draws on."""

from dataclasses import dataclass

from pipeline.reporting.blocks import count, share
from pipeline.reporting.compare import (
    Comparison,
    Grid,
    Setting,
    Verdict,
    by_setting,
    fractions,
    method_comparisons,
    ranked,
    ratio_comparisons,
    verdict,
)
from pipeline.reporting.evidence import Evidence


@dataclass(frozen=True, eq=False)
class Study:
    """The grid's settings and what was found about them."""

    evidence: Evidence
    grid: Grid
    methods: list[str]  # in the order of params.yaml, which colours follow
    fractions: list[float]
    between_methods: list[Comparison]
    between_ratios: list[Comparison]
    verdicts: dict[float, Verdict]

    def best_settings(self, label_fraction: float) -> list[Setting]:
        """Return each method's best setting by validation, in the order of the methods."""
        best = ranked(self.grid, label_fraction)
        return sorted(best, key=lambda setting: self.methods.index(setting.method))

    def num_labeled(self, label_fraction: float) -> int:
        """Return how many images a label fraction labels."""
        results = (r[0] for s, r in self.grid.items() if s.label_fraction == label_fraction)
        return next(results).num_labeled

    def labels(self, label_fraction: float) -> str:
        """Return a label fraction for people, with its number of images."""
        return f"{share(label_fraction)} ({count(self.num_labeled(label_fraction))})"

    def short_labels(self, label_fraction: float | None) -> str:
        """Return the same, short enough for a table's cell."""
        assert label_fraction is not None, "the grid's cells have one"
        number = count(self.num_labeled(label_fraction))
        return f"{100 * label_fraction:g}%\N{NO-BREAK SPACE}({number})"

    @property
    def main_fraction(self) -> float | None:
        """Return the label fraction to speak of first: the headline's, if the grid has it."""
        wanted = self.evidence.params.label_fraction
        if wanted in self.fractions:
            return wanted
        return self.fractions[0] if self.fractions else None

    @property
    def num_seeds(self) -> int:
        """Return the largest number of seeds that a setting has."""
        return max((len(results) for results in self.grid.values()), default=0)

    @property
    def command(self) -> str:
        """Return the command that makes the grid again, whatever params.yaml says by then."""
        ablation = self.evidence.params.ablation.model_dump()
        lists = (f"'ablation.{k}=[{','.join(map(str, v))}]'" for k, v in ablation.items())
        return "dvc exp run " + " ".join(f"-S {value}" for value in lists)


def make_study(evidence: Evidence) -> Study:
    """Compare the grid's settings."""
    grid = by_setting(evidence.grid)
    between_methods = method_comparisons(grid)
    cells = [evidence.params.ablation.method, [r.cell.method for r in evidence.results]]
    return Study(
        evidence=evidence,
        grid=grid,
        methods=list(dict.fromkeys(method for group in cells for method in group)),
        fractions=fractions(grid),
        between_methods=between_methods,
        between_ratios=ratio_comparisons(grid),
        verdicts={f: verdict(grid, f, between_methods) for f in fractions(grid)},
    )
