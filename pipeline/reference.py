"""``python -m pipeline.reference``: write docs/reference/params.md from the option classes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.workspace import dvc_root
from semimae.files import write_text
from semimae.options.grid import FREE
from semimae.options.method import METHODS
from semimae.options.params import Params

TARGET = Path("docs/reference/params.md")
DEFAULTS = Path("recipes/base/defaults.yaml")  # what params.yaml holds in a fresh clone
_HEADER = """\
# params.yaml

Written by `python -m pipeline.reference` from the option classes; do not edit it by hand.
Every key is required. Defaults are those of the recipe `digits`, which is the `params.yaml` of a
fresh clone. A wrong key, type or range ends any command with exit code 2 and one line that says
what arrived and what is allowed.

Keys marked *free* do not affect the weights. If you change one, a stopped run continues at its next
step, and finished runs are not trained again. All keys in the sections `linear_probe`, `fine_tune`,
`ablation` and `tracking` are free: at most, runs are evaluated or logged again.
"""
_TYPES = {
    "number": "number",
    "integer": "whole number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "maximum": "<="}

Schema = dict[str, Any]


def reference(defaults: Schema) -> str:
    """Return the page: a table of all keys, with type, allowed values, default and meaning.

    Args:
        defaults: The parsed params file that holds the defaults.
    """
    schema = Params.model_json_schema()
    fields, definitions = schema["properties"], schema["$defs"]
    sections = {name: field for name, field in fields.items() if _members(field)}
    plain = {name: field for name, field in fields.items() if name not in sections}
    parts = [_HEADER, "## Top level\n", *_table(plain, defaults, "", definitions)]
    for name, field in sections.items():
        members = [definitions[reference] for reference in _members(field)]
        for member in members:
            values = defaults[name]
            title = name
            if len(members) > 1:
                tag = member["properties"]["name"]["const"]
                title = f"{name}, name: {tag}"
                values = values if values["name"] == tag else {}
            parts += [f"\n## {title}\n", f"{_text(member)}\n"]
            parts += _table(member["properties"], values, f"{name}.", definitions)
    return "\n".join(parts) + "\n"


def _members(field: Schema) -> list[str]:
    """Return the names of the sections that a field can hold."""
    options = [field, *field.get("oneOf", []), *field.get("anyOf", [])]
    return [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]


def _table(fields: Schema, values: Schema, prefix: str, definitions: Schema) -> list[str]:
    head = ["| Key | Type | Allowed | Default | Meaning |", "| --- | --- | --- | --- | --- |"]
    return head + [" | ".join(row) for row in _rows(fields, values, prefix, definitions)]


def _rows(
    fields: Schema, values: Schema, prefix: str, definitions: Schema
) -> Iterator[tuple[str, ...]]:
    for name, field in sorted(fields.items(), key=lambda entry: entry[0] != "name"):
        if members := _members(field):
            inner = definitions[members[0]]["properties"]
            yield from _rows(inner, values.get(name, {}), f"{prefix}{name}.", definitions)
            continue
        default = f"`{json.dumps(values[name])}`" if name in values else ""
        meaning = f"{_text(field)}{_mark(f'{prefix}{name}')} |"
        yield f"| `{prefix}{name}`", _type(field), _allowed(field), default, meaning


def _mark(key: str) -> str:
    """Return the mark of a key that does not affect the weights, and for which methods it does."""
    if key not in FREE:
        return ""
    section, _, name = key.partition(".")
    readers = [
        method
        for method, options in METHODS.items()
        if (field := options.model_fields.get(section)) is not None
        and name in getattr(field.annotation, "model_fields", {})
    ]
    return f" *Free, except for {', '.join(readers)}.*" if readers else " *Free.*"


def _text(described: Schema) -> str:
    return " ".join(described["description"].replace("``", "`").split())


def _type(field: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "$ref" in field:
        return "map"
    if field["type"] == "array":
        items = _type(_item(field)).replace("number", "numbers")
        return f"list of {'maps' if items == 'map' else items}"
    if field["type"] == "object":
        inner = field.get("additionalProperties")
        return f"map of {_type(inner)}s" if isinstance(inner, dict) else "map"
    return _TYPES[field["type"]]


def _allowed(field: Schema) -> str:
    if "anyOf" in field:
        return "; ".join(filter(None, map(_allowed, field["anyOf"])))
    if "$ref" in field:
        return ""  # the text says what it holds
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "object":
        if "enum" not in field.get("propertyNames", {}):
            return ""  # the description says what it holds
        names = ", ".join(f"`{name}`" for name in field["propertyNames"]["enum"])
        return f"keys {names}; each {_allowed(field['additionalProperties'])}"
    if field["type"] == "array":
        least, most = field.get("minItems", 0), field.get("maxItems")
        count = {None: f"{least} or more", least: f"{least}"}.get(most, f"{least} to {most}")
        return ", each ".join(filter(None, [f"{count} values", _allowed(_item(field))]))
    bounds = [f"{sign} {field[key]:,}" for key, sign in _BOUNDS.items() if key in field]
    return ", ".join(bounds[1:] if {"minimum", "exclusiveMinimum"} <= field.keys() else bounds)


def _item(array: Schema) -> Schema:
    """Return the schema of a list's values, which is the same for all of them."""
    item: Schema = array["items"] if "items" in array else array["prefixItems"][0]
    return item


if __name__ == "__main__":
    root = dvc_root()
    write_text(root / TARGET, reference(YAML(typ="safe").load(root / DEFAULTS)))
