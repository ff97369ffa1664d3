"""A page of predictions to look through: every image small, in one file that opens offline."""

import contextlib
import html
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.thumbnails import picture_of, thumbnail
from semimae.files import replaced_file

MOST = 10_000  # images; a page of more is too heavy for a browser
SIDE = 96  # pixels, at most
# Takes images as path, class, probability, and what the model sees of each, ``[H, W, C]``.
Show = Callable[[list[tuple[str, str, float, NDArray[np.uint8]]]], None]


@contextlib.contextmanager
def gallery(out: Path | None, title: str) -> Iterator[Show]:
    """Yield a function that adds images.

    Images are written as they come, so that a large page needs no memory. Of more than ``MOST`` the
    first ones are shown, and the page says so. What is half-written does not stay.

    Args:
        out: The page; ``None``: the function does nothing.
        title: What the page is headed by.
    """
    if out is None:
        yield lambda rows: None
        return
    template = files("pipeline.reporting") / "templates" / "gallery.html"
    before, after = template.read_text(encoding="utf-8").split("IMAGES")
    total = 0
    with replaced_file(out) as path, path.open("w", encoding="utf-8") as file:
        file.write(before.replace("TITLE", html.escape(title)))

        def show(rows: list[tuple[str, str, float, NDArray[np.uint8]]]) -> None:
            nonlocal total
            for name, label, probability, pixels in rows[: max(0, MOST - total)]:
                picture = thumbnail(picture_of(pixels), SIDE)
                values = (name, label, round(probability, 4), picture)
                # A file's name must not end the script that holds it.
                file.write(json.dumps(values).replace("<", "\\u003c") + ",\n")
            total += len(rows)

        yield show
        file.write(after.replace("TOTAL", str(total)))
