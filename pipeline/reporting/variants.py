"""What each variant of the grid changes, and whether it helps."""

from pipeline.reporting.answer import difference_value, versus
from pipeline.reporting.blocks import (
    Block,
    Entry,
    Section,
    Table,
    Text,
    accuracy,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.compare import (
    Labels,
    Setting,
    best_of_variants,
    compare,
    mean_of_last,
    method_name,
    over_seeds,
    top1,
    val_top1,
)
from pipeline.reporting.study import Study
from pipeline.workspace import flat
from semimae.options.grid import PLAIN


def variants_section(study: Study) -> Section:
    """Compare each variant with the plain one, and the methods within each variant."""
    a = study.evidence.params.ablation
    words = (
        "A variant changes values that the grid has no list for. A method that has no such value "
        "has no row for it. Rows are at the mask ratio that validation prefers. The stressed row, "
        "best on validation images, is the one to choose; the test set only judges."
    )
    changes: list[list[Entry]] = [
        [name, ", ".join(f"{key}: {value}" for key, value in flat(a.changes[name]).items())]
        for name in a.variant[1:]
    ]
    blocks: list[Block] = [
        Text(words),
        Table("What they change.", text_columns("Variant", "Values"), changes),
    ]
    for fraction in study.fractions:
        blocks += [table for table in variant_tables(study, fraction) if table.rows]
    return Section("variants", "Variants", blocks)


def variant_tables(study: Study, fraction: Labels) -> list[Table]:
    """Return the variants against the plain one, and the headline's method against the others."""
    return [_against_plain(study, fraction), _against_methods(study, fraction)]


def _against_plain(study: Study, fraction: Labels) -> Table:
    best = best_of_variants(study.grid, fraction, study.asked)
    plain = {method: s for (method, variant), s in best.items() if variant == PLAIN}
    pairs = [(s, plain[s.method]) for s in best.values() if s != plain.get(s.method, s)]
    methods = {a.method for a, _ in pairs}
    shown = [s for s in best.values() if s.method in methods]
    shown.sort(key=lambda s: (study.methods.index(s.method), s.variant != PLAIN))
    on_validation = {c.a: c for c in compare(study.grid, pairs, val_top1)}
    on_test = {c.a: c for c in compare(study.grid, pairs)}
    preferred = max(shown, key=lambda s: over_seeds(study.grid[s], val_top1).mean, default=None)
    rows: list[list[Entry]] = []
    for setting in shown:
        results = study.grid[setting]
        rows.append(
            [
                study.named(setting),
                percent(over_seeds(results, val_top1).mean),
                difference_value(on_validation.get(setting)),
                accuracy(over_seeds(results, top1())),
                *versus(on_test.get(setting)),
                percent(mean_of_last(results, "pseudo/accuracy_all")),
            ]
        )
    return Table(
        f"{study.labels(fraction)}: each variant, and its gain over the plain one on the same "
        f"seeds, in points. P adjusted by Holm for the {len(pairs)} gains.",
        [
            *text_columns("Setting"),
            *number_columns("Validation %", "Gain", "Test %", "Gain on test"),
            *text_columns("Shown?"),
            *number_columns("Pseudo labels right %"),
        ],
        rows,
        strong=None if preferred is None else shown.index(preferred),
    )


def _against_methods(study: Study, fraction: Labels) -> Table:
    """Compare within each variant; a method that it does not change takes part as it is."""
    best = best_of_variants(study.grid, fraction, study.asked)
    own = study.evidence.params.method
    pairs: dict[tuple[Setting, Setting], str] = {}
    for variant in study.evidence.params.ablation.variant:
        found = {m: best.get((m, variant), best.get((m, PLAIN))) for m in study.methods}
        for method, other in found.items():
            mine = found.get(own)
            if mine is not None and other is not None and method != own:
                pairs.setdefault((mine, other), variant)
    on_validation = {(c.a, c.b): c for c in compare(study.grid, pairs, val_top1)}
    rows: list[list[Entry]] = [
        [
            pairs[c.a, c.b],
            study.named(c.a),
            study.named(c.b),
            difference_value(on_validation[c.a, c.b]),
            *versus(c),
        ]
        for c in compare(study.grid, pairs)
    ]
    return Table(
        f"{study.labels(fraction)}: {method_name(own)} less the other methods within each variant, "
        f"in points. P adjusted by Holm for the {len(rows)} rows.",
        [
            *text_columns("Variant", "Setting", "less"),
            *number_columns("Validation", "Test"),
            *text_columns("Shown?"),
        ],
        rows,
    )
