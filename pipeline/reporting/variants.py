"""What each variant of the grid changes, and whether it helps."""

from collections.abc import Sequence

from pipeline.reporting import tables, words
from pipeline.reporting.analysis import Analysis, fractions
from pipeline.reporting.blocks import Block, Table, Text, table_of
from pipeline.reporting.compare import TOP1, VALIDATION, Setting, compare
from pipeline.reporting.runs import Labels, method_name
from pipeline.workspace import flat
from semimae.options.grid import PLAIN


def variants(a: Analysis) -> list[Block]:
    """Compare each variant with the plain one, and the methods within each variant."""
    params, names = a.evidence.params, list(dict.fromkeys(s.variant for s in a.grid))
    if len(names) < 2:
        return []
    text = (
        "A variant changes values that the grid does not list. A method that does not use them has "
        "no row for the variant. Each row is at the mask ratio that did best in validation."
    )
    changed = params.ablation.changes if params else {}
    rows = [
        (name, ", ".join(f"{key}: {value}" for key, value in flat(changed[name]).items()))
        for name in names
        if name in changed
    ]
    changes = table_of("What each variant changes.", {"Variant": "text", "Values": "words"}, rows)
    return [Text(text), changes, *variant_tables(a)]


def variant_tables(a: Analysis) -> list[Table]:
    """Return the variants against the plain one, and the headline's method against the others."""
    best = {f: _best(a, f) for f in fractions(a.grid)}
    return [table(a, found) for found in best.values() for table in (_gains, _against_methods)]


def _gains(a: Analysis, best: Sequence[Setting]) -> Table:
    """Each variant, and its gain over the plain one."""
    plain = {s.method: s for s in best if s.variant == PLAIN}
    pairs = [(s, plain[s.method]) for s in best if s != plain.get(s.method, s)]
    varied = {s.method for s, _ in pairs}
    shown = [s for s in best if s.method in varied]
    shown.sort(key=lambda s: (a.methods.index(s.method), s.variant != PLAIN))
    on_validation, on_test = ({c.a: c for c in compare(pairs, of)} for of in (VALIDATION, TOP1))
    gain, _ = tables.lead_columns("Gain", on_validation)
    labels = words.labels(best[0].first)
    return Table(
        f"{labels}: each variant, and its gain over the plain one on the same seeds in points. The "
        "highlighted row is the best on validation images.",
        [
            *(tables.SETTING, tables.VALIDATION, gain, tables.ACCURACY),
            *tables.lead_columns("Gain on test", on_test),
        ],
        shown,
        strong=max(shown, key=lambda s: s.mean(VALIDATION).mean, default=None),
    )


def _against_methods(a: Analysis, best: Sequence[Setting]) -> Table:
    """Within each variant, params.yaml's method less the others; one without it stays plain."""
    known = {(s.method, s.variant): s for s in best}
    pairs: list[tuple[Setting, Setting]] = []
    for variant in dict.fromkeys(s.variant for s in best):
        found = {m: known.get((m, variant), known.get((m, PLAIN))) for m in a.methods}
        mine = found.pop(a.asked.method, None)
        pairs += [(mine, other) for other in found.values() if mine and other]
    caption = f"{method_name(a.asked.method)} compared with the other methods within each variant."
    return tables.differences(a, caption, compare(dict.fromkeys(pairs)))


def _best(a: Analysis, fraction: Labels) -> list[Setting]:
    """Return the best mask ratio by validation of each method and variant."""
    best: dict[tuple[str, str], Setting] = {}
    for setting in a.by_validation(a.grid, fraction):
        best.setdefault((setting.method, setting.variant), setting)
    return [s for s in a.grid if s in best.values()]
