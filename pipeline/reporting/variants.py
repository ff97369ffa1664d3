"""What each variant of the grid changes, and whether it helps."""

from pipeline.reporting import tables, words
from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Column, Table, Text, table_of
from pipeline.reporting.compare import Labels, Setting, compare, method_name, over_seeds, val_top1
from semimae.options.grid import PLAIN


def variants(a: Analysis) -> list[Block]:
    """Compare each variant with the plain one, and the methods within each variant."""
    params, names = a.evidence.params, list(dict.fromkeys(s.variant for s in a.grid))
    if len(names) < 2:
        return []
    blocks: list[Block] = [
        Text(
            "A variant changes values that the grid has no list for. A method that does not have "
            "such a value has no row for it. Each row is at the mask ratio that validation prefers."
        )
    ]
    if params is not None:
        changes = [(n, words.changes(params, n)) for n in names if n != PLAIN]
        rows = [{"Variant": name, "Values": values} for name, values in changes]
        blocks.append(table_of("What they change.", {"Variant": "text", "Values": "words"}, rows))
    return [*blocks, *variant_tables(a)]


def variant_tables(a: Analysis) -> list[Table]:
    """Return the variants against the plain one, and the headline's method against the others."""
    return [table(a, f) for f in a.fractions() for table in (_gains, _against_methods)]


def _gains(a: Analysis, fraction: Labels) -> Table:
    """Each variant, and its gain over the plain one."""
    best = _best(a, fraction)
    plain = {method: s for (method, variant), s in best.items() if variant == PLAIN}
    pairs = [(s, plain[s.method]) for s in best.values() if s != plain.get(s.method, s)]
    on_validation = {c.a: c for c in compare(a.grid, pairs, val_top1)}
    on_test = {c.a: c for c in compare(a.grid, pairs)}
    varied = {s.method for s, _ in pairs}
    shown = [s for s in best.values() if s.method in varied]
    shown.sort(key=lambda s: (a.methods.index(s.method), s.variant != PLAIN))
    rows = [tables.Line(s, a.grid[s], on_test.get(s), on_validation.get(s)) for s in shown]
    return Table(
        f"{words.labels(a, fraction)}: each variant, and its gain over the plain one on the same "
        "seeds in points. The stressed row is the best on validation images.",
        [
            tables.SETTING,
            tables.VALIDATION,
            Column("Gain", lambda n: n.other and n.other.difference, "points"),
            tables.ACCURACY,
            Column("Gain on test", lambda n: n.lead and n.lead.difference, "points"),
            tables.RESULT,
        ],
        rows,
        strong=max(rows, key=lambda n: over_seeds(n.runs, val_top1).mean, default=None),
    )


def _against_methods(a: Analysis, fraction: Labels) -> Table:
    """Within each variant, params.yaml's method less the others; one without it stays plain."""
    best = _best(a, fraction)
    pairs: list[tuple[Setting, Setting]] = []
    for variant in dict.fromkeys(variant for _, variant in best):
        found = {m: best.get((m, variant), best.get((m, PLAIN))) for m in a.methods}
        mine = found.pop(a.asked.method, None)
        pairs += [(mine, other) for other in found.values() if mine and other]
    caption = f"{method_name(a.asked.method)} compared with the other methods within each variant."
    return tables.differences(a, caption, compare(a.grid, dict.fromkeys(pairs)), a.grid)


def _best(a: Analysis, fraction: Labels) -> dict[tuple[str, str], Setting]:
    """Return the best mask ratio by validation of each method and variant."""
    best: dict[tuple[str, str], Setting] = {}
    for setting in a.by_validation(a.grid, fraction):
        best.setdefault((setting.method, setting.variant), setting)
    return {(s.method, s.variant): s for s in a.grid if s in best.values()}
