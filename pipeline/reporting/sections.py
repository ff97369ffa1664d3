"""The report's sections in order; one that has nothing to say is left out."""

from functools import partial

from pipeline.reporting import tables, words
from pipeline.reporting.analysis import Analysis, fractions
from pipeline.reporting.answer import answer
from pipeline.reporting.blocks import Block, Column, Section, Text, table_of
from pipeline.reporting.charts import DIFFERENCES, LOG, Chart
from pipeline.reporting.compare import against
from pipeline.reporting.formats import count
from pipeline.reporting.headline import headline
from pipeline.reporting.labels import labels
from pipeline.reporting.pictures import predictions, reconstructions
from pipeline.reporting.runs import method_name
from pipeline.reporting.training import training
from pipeline.reporting.variants import variants
from pipeline.workspace import flat
from semimae.options.grid import PLAIN

_FEW = 2  # methods; of more all pairs are drawn


def make_sections(a: Analysis, commit: str | None) -> list[Section]:
    """Return the report's sections; of a kept table those that need no stage files."""
    grid, stage_files = bool(a.grid), a.evidence.params is not None
    found = (
        ("answer", "Which setting won?", answer, True),
        ("leaderboard", "Leaderboard", lambda a: [tables.leaderboard(a)], grid),
        ("differences", "Paired differences", _differences, grid),
        ("variants", "Variants", variants, grid),
        ("mask-ratio", "Mask ratio", _mask_ratios, grid),
        ("equal-time", "At equal time", _equal_time, bool(a.timed)),
        ("labels", "How many labels do I need?", labels, grid),
        ("training", "Training", training, stage_files),
        ("headline", "Headline run", headline, stage_files),
        ("predictions", "Predictions to look at", predictions, stage_files),
        ("reconstructions", "Reconstructions", reconstructions, stage_files),
        ("cost", "Cost", _cost, True),
        ("runs", "Runs", _runs, True),
        ("provenance", "Provenance", partial(_provenance, commit=commit), True),
    )
    sections = [
        Section(anchor, title, [block for block in blocks(a) if block])
        for anchor, title, blocks, is_known in found
        if is_known
    ]
    return [section for section in sections if section.blocks]


def _differences(a: Analysis) -> list[Block]:
    blocks: list[Block] = []
    own = [a.own(a.grid, f) or v.best for f, v in a.verdicts.items()]
    found = [c for setting in own for c in against(setting, a.between_methods)]
    each = words.choice_of_settings(a)
    if found:
        mine = method_name(found[0].a.method)
        caption = f"{mine} compared with the other methods, each {each}."
        table = tables.differences(a, caption, found)
        intervals = ", with 95% intervals" * any(c.difference.low is not None for c in found)
        title = f"Lead of {mine} over the other methods{intervals}"
        chart = Chart("differences", title, table, a.methods, beside=True)
        blocks += [chart.rows("Difference", by="Compared with"), table]
    if len(a.methods) > _FEW:
        both = [*a.between_methods, *(c.reversed() for c in a.between_methods)]
        table = tables.differences(a, "All pairs of methods, both ways.", both)
        title = (
            "All pairs of methods: row minus column, in points. * marks significant differences."
        )
        order = [c.a.name for c in sorted(both, key=lambda c: -c.difference.mean)]
        text = "format(100 * datum.Difference, '+.1f') + (datum.Significant ? ' *' : '')"
        cells, sort = ("Setting", "Compared with", "Difference"), list(dict.fromkeys(order))
        blocks.append(Chart("pairs", title, table).matrix(cells, DIFFERENCES, text, sort))
    caption = "Within one method: the setting that validation prefers, compared with the others."
    return [*blocks, tables.differences(a, caption, a.within_methods)]


def _mask_ratios(a: Analysis) -> list[Block]:
    plain = [s for s in a.grid if s.variant == PLAIN]
    if len({s.mask_ratio for s in plain} - {None}) < 2:
        return []
    ratio = Column("Mask ratio", lambda setting: setting.mask_ratio, "number")
    plain = sorted(tables.by_accuracy(plain), key=lambda s: s.mask_ratio or 0)
    table, name = tables.means(a, plain, ratio), tables.ACCURACY_NAME
    title = "Test top-1 over mask ratio. Methods without a mask ratio are dashed lines."
    return [Chart("mask_ratio", title, table, a.methods).over(ratio.name, name)]


def _equal_time(a: Analysis) -> list[Block]:
    factors = a.evidence.params.ablation.time_factor if a.evidence.params else {}
    stated = ", ".join(f"{m} {factors[m]:g}" for m in a.methods if m in factors)
    how = f": train.steps times its factor in ablation.time_factor ({stated})" if stated else ""
    text = (
        f"Here all methods train for about the same time{how}. Time and device-hours show how "
        "close they came. On CPUs, device-hours are processor time, which other programs do not "
        "disturb."
    )
    caption = f"Each method {words.choice_of_settings(a)}, at equal time."
    table = tables.costs(a, tables.by_accuracy(a.best(a.timed)), caption)
    between = tables.differences(a, "Between methods at equal time.", a.between_timed)
    return [Text(text), table, between]


def _cost(a: Analysis) -> list[Block]:
    text = (
        "Images seen are labeled and unlabeled images over all steps, repetitions included. Time "
        "covers training and its validation. Device-hours are the processor time of all processes "
        "on a CPU; elsewhere, they are the time on all devices. Arithmetic is the number of "
        "multiplications and additions in matrix products and convolutions, forward and backward, "
        "derived from the model. It includes strong views that a CPU run skips because their "
        "pseudo label is rejected. For methods that train in phases, all phases count. Scoring is "
        "not included."
    )
    caption = "Cost of one run of each setting, mean over seeds."
    table = tables.costs(a, [*a.grid, *a.baselines], caption)
    if len(table.rows) < 2:
        return [Text(text), table]
    chart = Chart("cost", "Test top-1 over training time", table, a.methods, beside=True)
    drawn = chart.over(tables.TIME.name, tables.ACCURACY_NAME, scale=LOG, line=False)
    return [Text(text), drawn, table]


def _runs(a: Analysis) -> list[Block]:
    """List the runs, those of a setting below each other."""
    grouped = [run for setting in (*a.grid, *a.timed) for run in setting.runs]
    found = list({run.cell_id: run for run in (*grouped, *a.evidence.runs)}.values())
    unknown = sum(run.mlflow_run is None for run in found)
    mlflow = "Links to MLflow open while its UI runs (`make ui`, or your server)."
    if unknown:
        none = "No" if unknown == len(found) else "Not every"
        mlflow = (
            f"{none} run has been logged to MLflow from here, because results came from DVC's "
            "cache or a server was unavailable. `python -m pipeline sync-mlflow` logs them; then "
            "run `dvc repro -f report`."
        )
    about = (
        "In the tables above, each setting links to its first seed here. Folders that hold the "
        "same run count once. The commit is the one that was checked out when the run was "
        "trained; the code is a hash of the library, which also shows changes that were not "
        f"committed. All scores and ids are in ablation.csv. {mlflow} To find a run in any MLflow "
        "store, search for `tags.semimae.cell_id = 'CELL ID'`."
    )
    return [Text(about), tables.runs(found)]


def _provenance(a: Analysis, commit: str | None) -> list[Block]:
    """State data, splits, code, parameters, and what is missing."""
    info, params = a.evidence.dataset, a.evidence.params
    facts = []
    if info is not None:
        sides = map(str, (info.image_size, info.image_size, info.channels))
        size = " \N{MULTIPLICATION SIGN} ".join(sides)
        images = ", ".join(f"{count(n)} {name}" for name, n in info.counts.items() if n)
        facts += [
            ("Dataset", f"{info.name}, {info.num_classes} classes, {size} pixels"),
            ("Fingerprint", info.fingerprint),
            ("Images", images),
            ("Images left out because they cannot be read", count(info.num_skipped)),
            ("Test images that are also in another split", count(info.duplicates_test_train)),
        ]
    facts.append(("Commit that was checked out for this report", commit or "none"))
    of_fraction = {run.label_fraction: run for run in reversed(a.evidence.runs)}
    splits = [
        (run.labels, run.num_labeled, run.num_unlabeled, run.val_images)
        for run in map(of_fraction.__getitem__, fractions(a.grid))
    ]
    numbers = dict.fromkeys(("Labeled", "Unlabeled", "Validation"), "count")
    missing = [(m.name, f"runs/{m.folder}", m.reason) for m in a.evidence.missing]
    values = flat(params.model_dump(mode="json")) if params else {}
    listed = [(key, str(value)) for key, value in values.items()]
    text = (
        "Everything here is read from the stage files below runs/; `dvc repro` makes them and this "
        "report. To repeat this grid after params.yaml has changed, copy reports/params.yaml over "
        "it and run `dvc repro`."
    )
    value = {"Value": "words"}
    return [
        table_of("Data and code.", {"What": "text"} | value, facts),
        table_of("Images of each split.", {"Labels": "text"} | numbers, splits),
        table_of("Missing runs.", dict.fromkeys(("Run", "Folder", "Why"), "text"), missing),
        table_of("params.yaml.", {"Parameter": "text"} | value, listed, folded=True),
        Text(text if params else ""),
    ]
