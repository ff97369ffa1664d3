"""The content of params.yaml as a tree of plain values, before its keys are checked."""

import math
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from semimae.types import UserError

_LARGEST_FILE = 2**18  # bytes; a params.yaml has some thousand
_MOST_VALUES = 100_000  # with aliases written out


def read_bytes(path: Path) -> bytes:
    """Return the content of a params file; of one that is too large, enough to refuse it.

    Raises:
        UserError: If it is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; create one with `python -m pipeline recipe use digits`."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


def parse_yaml(content: bytes | str, path: Path) -> dict[str, Any]:
    """Return the keys and values of a params file. Messages refer to it as ``path``.

    Raises:
        UserError: If the content is too large, not YAML, or without keys.
    """
    if len(content) > _LARGEST_FILE:
        raise UserError(f"{path} is too large; allowed: up to {_LARGEST_FILE} bytes.")
    # pure: the same messages everywhere
    tree: dict[str, Any] = load_mapping(YAML(typ="safe", pure=True), content, path)
    if _count(tree, {}) > _MOST_VALUES:
        raise UserError(
            f"{path} has aliases (*name) that stand for more than {_MOST_VALUES:,} values, or for "
            "themselves; write the values out."
        )
    return tree


def load_mapping(yaml: YAML, content: bytes | str, path: Path) -> Any:
    """Return the keys and values of a text. Messages refer to it as ``path``.

    Raises:
        UserError: If it is not YAML, or without keys.
    """
    try:
        tree = yaml.load(content)
    except Exception as error:  # odd tags and dates make ruamel.yaml raise errors of any kind
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not valid YAML: {reason[:500]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__}; it must hold keys and values.")
    return tree


def _count(node: object, known: dict[int, float]) -> float:
    """Return how many values a node holds with its aliases written out; infinite in a circle.

    Whatever shows or compares such a node writes them out, which may take more memory than there
    is.
    """
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known: met again below itself, it is a circle
        children = (*node.keys(), *node.values()) if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]
