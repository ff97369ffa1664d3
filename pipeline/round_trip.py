"""Change YAML files and keep their comments and the form of their numbers."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.representer import RoundTripRepresenter

from semimae.options.params_file import load_mapping
from semimae.types import UserError


class _Representer(RoundTripRepresenter):
    """Writes null as ``null``, not as an empty value."""


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def load(path: Path) -> CommentedMap:
    """Return the keys and values of a file, with their comments.

    Raises:
        UserError: If the file cannot be read, or does not hold keys and values.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    return parse(content, path)


def parse(content: str | bytes, path: Path) -> CommentedMap:
    """Return the keys and values of a text, with their comments. Errors mention ``path``.

    Raises:
        UserError: If it does not hold keys and values.
    """
    tree: CommentedMap = load_mapping(_yaml(), content, path)
    return tree


def dump(tree: CommentedMap) -> str:
    """Return the text of what ``load`` returned."""
    text = io.StringIO()
    _yaml().dump(tree, text)
    return text.getvalue()


def _yaml() -> Any:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
