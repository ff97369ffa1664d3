"""Validation errors in one line: the key, what arrived, what is allowed."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_short = reprlib.Repr()  # a whole repr of nested YAML aliases would fill the memory
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 2, 120, 120, 60


def telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """Return the error to report: if a key is missing, an unknown key that may replace it."""
    first = errors[0]
    if first["type"] != "missing":
        return first
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    beside = [error for error in unknown if error["loc"][:-1] == first["loc"][:-1]]
    return next(iter(beside or unknown), first)


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say in one line what is wrong: the key, what arrived, what is allowed."""
    keys, section = _follow(model, error["loc"])
    key = ".".join(keys) or "params"
    if error["type"] == "extra_forbidden":
        unknown, fields = str(error["loc"][-1])[:80], section.model_fields
        hint = near(unknown, fields)
        of = f" of {'.'.join([*keys, 'name'])}: {_tag(section)}" if _tag(section) else ""
        return f"{'.'.join([*keys, unknown])}: unknown key{of}{hint}"
    if error["type"] == "missing":
        return f"{key}: missing; every key is required"
    if error["type"] == "union_tag_not_found":
        return f"{key}.name: missing; every key is required"
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        tag = str(context["tag"])[:80]
        return f"{key}.name: got '{tag}'; it must be one of {context['expected_tags']}"
    if error["type"] == "value_error":  # from a section's validator: begins with one of its keys
        return ".".join([*keys, str(error["ctx"]["error"])])
    message = error["msg"].replace("Input should be", "it must be")
    return f"{key}: got {_short.repr(error['input'])}; {message}"


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Return the keys of an error's location as they are in the file, and the last section.

    Pydantic's location also contains members of unions, which the file does not.
    """
    keys: list[str] = []
    section, options = model, [model]
    for part in location:
        holders = [option for option in options if part in option.model_fields]
        tagged = [option for option in options if _tag(option) == part]
        if holders:
            section = holders[0]
            options = _models(section.model_fields[str(part)].annotation)
            keys.append(str(part))
        elif tagged:
            section, options = tagged[0], tagged
        elif isinstance(part, int):
            keys.append(str(part))
    return keys, options[0] if options else section


def _tag(model: Any) -> str | None:
    """Return the value of ``name`` that identifies a model in its union."""
    field = getattr(model, "model_fields", {}).get("name")
    values = get_args(field.annotation) if field else ()
    return values[0] if values else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation, which may be a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def near(word: str, allowed: Iterable[str]) -> str:
    """Return a hint at the closest allowed word, if there is one."""
    by_letters = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(word.lower(), by_letters, n=1)
    return f" (did you mean '{by_letters[near[0]]}'?)" if near else ""
