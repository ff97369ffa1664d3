"""How a setting was chosen, whether the choice means anything, and which model is in use."""

from pipeline.reporting.blocks import Block, Text, count, interval, p_value, percent, points
from pipeline.reporting.by_image import ALPHA, FEWEST
from pipeline.reporting.compare import Comparison, Labels, Setting, over_seeds, setting_of, val_top1
from pipeline.reporting.evidence import Result
from pipeline.reporting.study import Study, exp_run
from semimae.options.grid import PLAIN

_NAMED = 4  # settings that are named one by one


def validation_images(results: list[Result]) -> str:
    """Return how many validation images a setting was judged by."""
    words = "1 validation image" if results[0].num_val == 1 else _images(results[0].num_val)
    return words if len(results) == 1 else f"{words} for each of {len(results)} seeds"


def choice_sentence(study: Study, fraction: Labels) -> str:
    """Say how the setting was chosen that the page speaks of."""
    found = study.verdicts[fraction]
    images = validation_images(study.grid[found.best])
    if not found.tied:
        return f"{found.best.name} is preferred by validation accuracy ({images})"
    listed = _listed([found.best, *found.tied])
    reason = (
        "the setting of `params.yaml`"
        if _is_asked(study, found.best)
        else "which comes first by validation accuracy"
    )
    return (
        f"{images} cannot tell {listed} apart, so that this report speaks of {found.best.name}, "
        f"{reason}"
    )


def detectable(study: Study, fraction: Labels) -> list[Block]:
    """Where validation cannot choose, name what is tied and what it could have told apart."""
    found = study.verdicts[fraction]
    if not found.tied:
        return []
    results = study.grid[found.best]
    value = over_seeds(results, val_top1).mean
    same = [s for s in found.tied if abs(over_seeds(study.grid[s], val_top1).mean - value) < 1e-9]
    total = sum(r.num_val for r in results)
    tie = (
        f"{_listed([found.best, *same])} are tied at {percent(value)}% validation accuracy. "
        if same
        else ""
    )
    least = (
        f"On {_images(total)} a difference of fewer than {FEWEST} images "
        f"({100 * FEWEST / total:.1f} points) is never significant at {ALPHA:g}"
        if total >= FEWEST
        else f"On {_images(total)} no difference at all is significant at {ALPHA:g}"
    )
    return [Text(f"{tie}{least} (exact McNemar test).")]


def image_sentence(comparison: Comparison) -> str:
    """Compare two settings on the same test images."""
    found = comparison.images
    if found is None:
        return ""
    limits = f"95% bootstrap interval over images {interval(found.low, found.high, signed=True)}"
    if found.num_seeds > 1:
        return (
            f" On the same {count(found.num_images)} test images, averaged over "
            f"{found.num_seeds} seeds: {points(found.mean)} points ({limits})."
        )
    p = comparison.images_p
    differ = "" if p is not None and p < ALPHA else "do not "
    return (
        f" Of the same {count(found.num_images)} test images, {comparison.a.name} alone is right "
        f"on {count(found.only_a)} and {comparison.b.name} alone on {count(found.only_b)} "
        f"({limits}; exact McNemar test, adjusted p {p_value(p)}): these two trained models "
        f"{differ}differ significantly. That does not cover the randomness of training."
    )


def model_in_use(study: Study) -> list[Block]:
    """Say which model the commands use, and how to use the one that the report recommends."""
    headline = study.evidence.headline
    if headline is None:
        return []
    scores = headline.scores["classifier"]
    top1 = scores.top1
    words = (
        f"The model that `predict`, `export` and `serve` use is `runs/headline`: "
        f"{setting_of(headline).name} with {headline.labels}, {percent(top1.value)}% "
        f"{interval(top1.low, top1.high)} of {count(scores.num_images)} test images, seed "
        f"{headline.cell.seed}."
    )
    best = _recommended(study)
    if best is None:
        return [Text(words)]
    if _is_asked(study, best):
        return [Text(f"{words} Its setting is the one that this report recommends.")]
    return [Text(f"{words} {_how_to_switch(study, best)}", tone="note")]


def _recommended(study: Study) -> Setting | None:
    fraction = study.asked.label_fraction
    return study.verdicts[fraction].best if fraction in study.verdicts else None


def _how_to_switch(study: Study, best: Setting) -> str:
    changed = [
        f"{name}={new}"
        for name, new, old in (
            ("method", best.method, study.asked.method),
            ("mask_ratio", best.mask_ratio, study.asked.mask_ratio),
        )
        if new is not None and new != old
    ]
    steps = [f"run `{exp_run(changed)}`"] if changed else []
    if best.variant != PLAIN:
        steps.append(f"copy the values of variant {best.variant} into params.yaml")
    return f"This report recommends {best.name} instead. To use that, {' and '.join(steps)}."


def _is_asked(study: Study, setting: Setting) -> bool:
    return setting == study.asked._replace(label_fraction=setting.label_fraction)


def _images(number: int) -> str:
    return f"{count(number)} validation images"


def _listed(settings: list[Setting]) -> str:
    names = [s.name for s in settings[:_NAMED]]
    if len(settings) > _NAMED:
        names.append(f"{len(settings) - _NAMED} more")
    return f"{', '.join(names[:-1])} and {names[-1]}"
