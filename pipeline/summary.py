"""The summary of a dataset that `prepare` prints, 80 columns wide."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.tables import visible
from semimae.data.store import DatasetInfo
from semimae.ingest.findings import Depth, Findings, Some, skipped_list

_WIDTH = 79
_ALL_SHOWN = 12  # classes; if there are more, only the smallest and the largest are shown
_HANDFUL = 5  # labeled training images of a class
_DARK = 0.5  # of the full range; a typical image below it probably uses fewer bits
_FULL_RANGE = 65535
_SPLITS = ("train", "val", "test")


def summary(info: DatasetInfo, found: Findings, out: Path) -> str:
    """Return the text to print: counts, sizes, skipped files, and anything unusual."""
    parts = [
        "\n".join(_counts(info, found)),
        "\n".join(_sizes(info, found)),
        "\n".join(_skipped(found, out)),
        "\n".join(_notes(info, found)),
    ]
    return "\n\n".join(part for part in parts if part)


def _counts(info: DatasetInfo, found: Findings) -> Iterator[str]:
    """Yield a table of images per class and split; 0 is shown as "-"."""
    total = sum(info.counts.values())
    yield f"{info.name}: {_many(total, 'image')}, {_many(info.num_classes, 'class')}"
    yield ""
    train = found.class_counts["train"]
    order = list(range(info.num_classes))
    if info.num_classes > _ALL_SHOWN:
        by_size = sorted(order, key=lambda i: (train[i], i))
        order = by_size[: _ALL_SHOWN // 2] + by_size[-_ALL_SHOWN // 2 :]
    splits = [split for split in _SPLITS if info.counts[split]]
    rows = [(info.class_names[i], [found.class_counts[s][i] for s in splits]) for i in order]
    rows += [("all labeled", [info.counts[split] for split in splits])]
    if info.counts["unlabeled"]:
        rows += [("unlabeled", [info.counts["unlabeled"]])]
    others = ""
    if hidden := info.num_classes - len(order):
        middle = sorted(train)[_ALL_SHOWN // 2 : -(_ALL_SHOWN // 2)]
        between = f"{middle[0]:,}" if middle[0] == middle[-1] else f"{middle[0]:,}-{middle[-1]:,}"
        others = f"... {hidden:,} more classes"
    width = min(40, max(len(others), *(len(name) for name, _ in rows)))
    yield f"  {'':{width}}" + "".join(f"{split:>10}" for split in splits)
    for number, (name, counts) in enumerate(rows):
        if others and number == _ALL_SHOWN // 2:
            yield f"  {others:{width}} {between:>9}"
        cells = "".join(f"{f'{count:,}' if count else '-':>10}" for count in counts)
        yield f"  {_short(name, width):{width}}{cells}"


def _sizes(info: DatasetInfo, found: Findings) -> Iterator[str]:
    smallest, middle, largest = (f"{width} x {height}" for width, height in found.sizes)
    side, shorter = info.image_size, min(found.sizes[1])
    if smallest == largest:
        text = f"All are {smallest} pixels"
    else:
        text = f"Pixels: {smallest} to {largest}, median {middle}"
    sees = f"the model sees {side} x {side}"
    if shorter >= 2 * side:
        sees += f", where details are {shorter / side:.2g} times smaller"
    yield from _wrapped(f"{text}; {sees}.")
    if found.num_smaller:
        many = _many(found.num_smaller, "image", "images", "is", "are")
        yield from _wrapped(f"{many} smaller than that and will be upscaled.")


def _skipped(found: Findings, out: Path) -> Iterator[str]:
    """Yield a line for each reason, most frequent first."""
    if total := sum(some.count for some in found.skipped.values()):
        yield f"Skipped: {_many(total, 'file or folder', 'files and folders')}"
        yield from _by_reason(found.skipped)
        yield f"  {skipped_list(out).name} lists all of them."
    if total := sum(some.count for some in found.bad.values()):
        yield f"Left out: {_many(total, 'image')} that cannot be read"
        yield from _by_reason(found.bad)
        yield f"  {out.name}/bad_images.csv lists all of them."


def _by_reason(found: Mapping[str, Some]) -> Iterator[str]:
    for given, some in found.items():
        reason = visible(given)
        line = f"{some.count:>6,}  {reason}: {_first(some)}"
        if len(line) <= _WIDTH or len(reason) < _WIDTH // 2:
            yield _short(line, _WIDTH)
            continue
        yield from _wrapped(f"{some.count:>6,}  {reason}", indent=8)
        yield f"        {_short(_first(some), _WIDTH - 8)}"


def _notes(info: DatasetInfo, found: Findings) -> Iterator[str]:
    """Yield what is unusual, with advice."""
    notes = [*_labels(info, found), *_copies(found), *_names(found), *_depth(info, found.depth)]
    if notes:
        yield "Worth a look:"
    for text, example in notes:
        yield from _wrapped(f"  ! {text}", indent=4)
        if example:
            yield f"    {_short(example, _WIDTH - 4)}"


def _labels(info: DatasetInfo, found: Findings) -> Iterator[tuple[str, str]]:
    train = found.class_counts["train"]
    few = [f"{info.class_names[i]} ({n})" for i, n in enumerate(train) if n < _HANDFUL]
    if few:
        verb = "has" if len(few) == 1 else "have"
        text = f"{_many(len(few), 'class')} {verb} fewer than {_HANDFUL} labeled training images:"
        yield text, ", ".join(few)
    untested = [
        name
        for name, count in zip(info.class_names, found.class_counts["test"], strict=True)
        if not count
    ]
    if untested:
        yield f"{_many(len(untested), 'class')} without test images:", ", ".join(untested)


def _copies(found: Findings) -> Iterator[tuple[str, str]]:
    if found.tested_elsewhere.count:
        text = _many(found.tested_elsewhere.count, "test image", "test images", "is", "are")
        text += " also in another split, which inflates the scores:"
        yield text, _first(found.tested_elsewhere)
    if found.two_classes.count:
        text = _many(found.two_classes.count, "image", "images", "is", "are")
        yield f"{text} in several classes; keep only one copy:", _first(found.two_classes)
    if found.repeated.count:
        text = _many(found.repeated.count, "copy", "copies")
        yield f"{text} of an image in the same split:", _first(found.repeated)


def _names(found: Findings) -> Iterator[tuple[str, str]]:
    for what, some in (("classes", found.alike_classes), ("files", found.alike_names)):
        if some.count:
            text = f"Names of {what} that differ only in case, Unicode form or spaces"
            yield f"{text} ({some.count:,}):", _first(some)


def _depth(info: DatasetInfo, depth: Depth | None) -> Iterator[tuple[str, str]]:
    if depth is None:
        return
    white = info.white_level or _FULL_RANGE
    many = _many(depth.count, "image", "images", "has", "have")
    if depth.typical < _DARK * white:
        # A single bright pixel, such as from a defective sensor, must not hide the usual range.
        outlier = depth.largest >= _DARK * white
        used = depth.typical if outlier else depth.largest
        rest = f", the largest is {depth.largest:,}," if outlier else ""
        levels = (used * 255 + white // 2) // white + 1
        text = (
            f"{many} more than 8 bits, but {'half of them have ' if outlier else ''}no value above "
            f"{used:,}{rest} where {white:,} is white: at most {levels} of 256 levels are left. "
            f"Set data.white_level: {(1 << used.bit_length()) - 1}."
        )
        yield text, ""
    elif depth.largest > white:
        text = f"{many} more than 8 bits; values above data.white_level {white:,} become white"
        yield f"{text} (largest {depth.largest:,}).", ""


def _first(some: Some) -> str:
    rest = some.count - len(some.first)
    return ", ".join(some.first) + (f", {rest:,} more" if rest else "")


def _many(count: int, one: str, several: str | None = None, verb: str = "", verbs: str = "") -> str:
    """Return a count with its noun and, if given, its verb."""
    plural = several or f"{one}{'es' if one.endswith('s') else 's'}"
    words = (one, verb) if count == 1 else (plural, verbs)
    return " ".join([f"{count:,}", *filter(None, words)])


def _wrapped(text: str, indent: int = 0) -> list[str]:
    lead = len(text) - len(text.lstrip())
    return textwrap.wrap(
        text.strip(),
        _WIDTH,
        initial_indent=" " * lead,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _short(text: str, width: int) -> str:
    """Return text that fits into a width, with control characters escaped."""
    text = visible(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."
