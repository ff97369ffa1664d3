"""Hints about a wrong header of a csv file."""

from collections.abc import Sequence

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_OTHER_WORDS = {
    "path": {"file", "filename", "file_name", "filepath", "image", "image_path", "name", "id"},
    "label": {"class", "category", "target", "class_name", "labels", "y"},
    "split": {"set", "subset", "fold", "partition"},
}


def header_hint(columns: Sequence[str], wanted: Sequence[str]) -> str:
    """Return what to do about a header that lacks a required column, or nothing.

    >>> header_hint(["Path", "label"], ["path", "label"])
    "; write 'path' instead of 'Path'"
    >>> header_hint(["path;label"], ["path", "label"])
    '; its fields are separated by semicolons: save it with commas'
    """
    for separator, word in _SEPARATORS.items():
        if len(columns) == 1 and separator in columns[0]:
            return f"; its fields are separated by {word}: save it with commas"
    renamed = [
        f"write {name!r} instead of {column!r}"
        for name in wanted
        if name not in columns
        for column in _like(name, columns, wanted)[:1]
    ]
    return "; " + ", ".join(renamed) if renamed else ""


def _like(name: str, columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return columns that differ from a name in case or spaces, or else its synonyms."""
    others = [column for column in columns if column not in wanted]
    words = [(column.strip().lower(), column) for column in others if column]
    same = [column for word, column in words if word == name]
    return same or [column for word, column in words if word in _OTHER_WORDS.get(name, ())]
