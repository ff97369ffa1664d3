"""Overlays: a recipe gives its base and only the values that differ from it."""

import itertools
import re
from pathlib import Path

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.tokens import CommentToken

from pipeline.round_trip import dump, load
from semimae.options.explain import near
from semimae.options.params import Params
from semimae.types import UserError

FREE_FORM = frozenset({"time_factor", "changes"})  # mappings whose keys are names, not fields


def read(path: Path) -> Params:
    """Return the validated params of a recipe.

    Raises:
        UserError: If they are not valid, or the recipe cannot be completed.
    """
    return Params.parse(complete(path), path)


def complete(path: Path) -> str:
    """Return the complete params file of a recipe.

    It has the header of the recipe and the order of the base. Comments of the base are kept where
    the recipe has none. A file without a base is returned unchanged.

    Args:
        path: The recipe. Its ``base`` names a file without ``.yaml``, relative to its own folder.

    Raises:
        UserError: If a file cannot be read, or if a base is missing or circular.
    """
    *overlays, tree = _chain(path)
    text = path.read_text(encoding="utf-8")
    if not overlays:
        return text
    for overlay in reversed(overlays):
        merge(tree, overlay)
    header = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))
    return "".join(header) + _layout(tree)


def merge(tree: CommentedMap, overlay: CommentedMap) -> None:
    """Merge the values and comments of an overlay into a tree.

    Sections are merged key by key. Everything else is replaced: numbers, lists, the mappings of
    ``FREE_FORM`` and, as in ``Params.variant``, a section whose ``name`` changes.
    """
    for key, value in overlay.items():
        before = tree.get(key)
        if key not in FREE_FORM and _are_one_section(before, value):
            merge(before, value)
        else:
            tree[key] = value
        comment = _comment(overlay, key)
        if comment and comment.value.strip():  # an empty line is a comment too
            tree.ca.items[key] = overlay.ca.items[key]
        if comment := _comment(tree, key):
            comment.start_mark.column = 0  # one space after the value, however long it is


def _comment(tree: CommentedMap, key: str) -> CommentToken | None:
    """Return the comment that follows a key and its value."""
    tokens = tree.ca.items.get(key)
    return tokens[2] if tokens else None


def _are_one_section(before: object, after: object) -> bool:
    if not isinstance(before, CommentedMap) or not isinstance(after, CommentedMap):
        return False
    return bool(after.get("name", before.get("name")) == before.get("name"))


def _chain(path: Path) -> list[CommentedMap]:
    """Return a recipe, its base, the base of that, and so on, without their key ``base``."""
    trees, seen = [load(path)], {path.resolve()}
    while "base" in trees[-1]:
        name, folder = str(trees[-1].pop("base")), path.parent
        base = folder / f"{name}.yaml"
        if not base.is_file():
            names = [
                file.relative_to(folder).with_suffix("").as_posix()
                for file in folder.rglob("*.yaml")
            ]
            raise UserError(
                f"{path}: base: got '{name}', but {base} is missing{near(name, names)}."
            )
        if base.resolve() in seen:
            raise UserError(
                f"{path}: base: got '{name}', which is itself based on this file; "
                "choose another base, or state every key."
            )
        path = base
        trees.append(load(path))
        seen.add(path.resolve())
    return trees


def _layout(tree: CommentedMap) -> str:
    """Return the text of a tree, with one empty line before each section and none elsewhere."""
    tree.ca.comment = None  # the header of the base
    text = re.sub(r"\n{2,}", "\n", dump(tree))
    return re.sub(r"^(?=\w+:( #.*)?$)", "\n", text, flags=re.MULTILINE)
