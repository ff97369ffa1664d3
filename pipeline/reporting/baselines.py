"""What the grid is held against, above all what a person would try first."""

from pipeline.reporting.blocks import Block, Text, duration, interval, percent
from pipeline.reporting.compare import Comparison, Setting, compare, over_seeds, top1
from pipeline.reporting.evidence import Result
from pipeline.reporting.study import Study


def baseline_blocks(study: Study, best: Setting) -> list[Block]:
    """Say how the preferred setting fares against each baseline with the same labels."""
    baselines = [s for s in study.baselines if s.label_fraction == best.label_fraction]
    comparisons = compare(study.with_baselines, [(baseline, best) for baseline in baselines])
    return [_sentence(study, comparison) for comparison in comparisons]


def leaderboard_note(study: Study) -> str:
    """Say which rows of the leaderboard took no part in the choice."""
    names = list(dict.fromkeys(setting.name for setting in study.baselines))
    return f" Baselines, among which nothing is chosen: {'; '.join(names)}." if names else ""


def _sentence(study: Study, comparison: Comparison) -> Text:
    """Compare a baseline with the preferred setting."""
    baseline, best, difference = comparison.a, comparison.b, comparison.difference
    ours, theirs = study.grid[best], study.baselines[baseline]
    reached = f"{baseline.name} reaches {percent(over_seeds(theirs, top1()).mean)}% test top-1"
    times = f"{_time(theirs)} per run, {best.name} {_time(ours)}"
    if difference.mean > 0:
        low, high = difference.low, difference.high
        return Text(
            f"The baseline wins: {reached}, {_by(difference.mean, low, high)} more than "
            f"{best.name}. It takes {times}.",
            tone="note",
        )
    other = difference.reversed()
    return Text(
        f"The baseline {reached}; {best.name} is {_by(other.mean, other.low, other.high)} above "
        f"it. The baseline takes {times}."
    )


def _by(mean: float, low: float | None, high: float | None) -> str:
    sure = f" {interval(low, high, signed=True)}" if low is not None else ""
    return f"{percent(mean)} points{sure}"


def _time(results: list[Result]) -> str:
    return duration(sum(result.seconds for result in results) / len(results))
