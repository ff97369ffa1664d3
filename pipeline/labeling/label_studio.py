"""Label Studio: tasks with the model's guesses go out, and exported annotations come back.

Formats: https://labelstud.io/guide/task_format, https://labelstud.io/guide/export. Images stay
where they are: Label Studio serves them from its folder LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import quoteattr

from pipeline.labeling.suggestion import Suggestion
from semimae.types import UserError

_SERVED = "/data/local-files/?d="
_FORMS = "export it from Label Studio as JSON or JSON-MIN"
Task = dict[str, Any]


def tasks(suggestions: Iterable[Suggestion], model: str) -> list[Task]:
    """Return one task per image, with the model's guess as a pre-annotation.

    Args:
        suggestions: The images.
        model: What Label Studio shows as the model's version.
    """
    return [
        {
            "data": {"image": _SERVED + quote(each.path), "rank": each.rank},
            "predictions": [
                {
                    "model_version": model,
                    "score": round(each.confidence, 6),
                    "result": [
                        {
                            "from_name": "label",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [each.guess]},
                        }
                    ],
                }
            ],
        }
        for each in suggestions
    ]


def labeling_config(classes: Sequence[str]) -> str:
    """Return the labeling interface, for the project's settings: an image and its classes."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        '  <Choices name="label" toName="image" choice="single" showInLine="true">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    )


def read_export(file: Path) -> tuple[list[tuple[str, str]], int]:
    """Read the labels that people gave in Label Studio.

    Args:
        file: An export as JSON, which holds every annotation, or as JSON-MIN.

    Returns:
        Path and label of each annotation, and how many tasks have none or were skipped. Two people
        may have labeled the same image, so a path may occur twice.

    Raises:
        UserError: If the file is not such an export, or an image has several classes.
    """
    try:
        exported = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); {_FORMS}.") from None
    if not isinstance(exported, list) or not all(isinstance(task, dict) for task in exported):
        raise UserError(f"{file} does not hold a list of tasks; {_FORMS}.")
    labels: list[tuple[str, str]] = []
    without = 0
    for number, task in enumerate(exported, start=1):
        where = f"{file}: task {task.get('id', number)}"
        try:
            path, found = _path_of(task), _choices_of(task)
        except (KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"{where} has no image and choices as expected; {_FORMS}.") from None
        for choices in found:
            if len(choices) != 1 or not isinstance(choices[0], str):
                raise UserError(f"{where} has {len(choices)} classes; each image needs one.")
            labels.append((path, choices[0]))
        without += not found
    return labels, without


def _path_of(task: Task) -> str:
    """Return the path of a task's image, which the address holds percent-encoded."""
    address = task["data"]["image"] if "data" in task else task["image"]
    parts = urlsplit(address)
    query = parse_qs(parts.query, keep_blank_values=True)
    return query["d"][0] if "d" in query else str(address)


def _choices_of(task: Task) -> list[list[Any]]:
    """Return the classes of each annotation that was submitted."""
    if "annotations" in task:
        submitted = [each for each in task["annotations"] if not each.get("was_cancelled")]
        results = [[r["value"] for r in each["result"]] for each in submitted]
        return [[c for value in values for c in value["choices"]] for values in results if values]
    label = task.get("label")  # JSON-MIN; several classes are {"choices": [...]}
    if label is None:
        return []
    return [label["choices"] if isinstance(label, dict) else [label]]
