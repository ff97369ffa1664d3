"""A page of predictions to look through: every image small, in one file that opens offline."""

import contextlib
import html
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.thumbnails import picture_of, thumbnail
from semimae.data.images import open_file
from semimae.files import replaced_file

MOST = 10_000  # images; a page of more is too heavy for a browser
SIDE = 96  # pixels, at most
Show = Callable[[list[tuple[str, str, float]]], None]


@contextlib.contextmanager
def gallery(
    out: Path | None, title: str, pixels: Callable[[Image.Image], NDArray[np.uint8]]
) -> Iterator[Show]:
    """Yield a function that takes images as path, class and probability.

    Images are written as they come, so that a large page needs no memory. Of more than ``MOST`` the
    first ones are shown, and the page says so. What is half-written does not stay.

    Args:
        out: The page; ``None``: the function does nothing.
        title: What the page is headed by.
        pixels: Returns an image as the model sees it, ``[H, W, C]``.
    """
    if out is None:
        yield lambda rows: None
        return
    template = files("pipeline.reporting") / "templates" / "gallery.html"
    before, after = template.read_text(encoding="utf-8").split("IMAGES")
    total = 0
    with replaced_file(out) as path, path.open("w", encoding="utf-8") as file:
        file.write(before.replace("TITLE", html.escape(title)))

        def show(rows: list[tuple[str, str, float]]) -> None:
            nonlocal total
            for name, label, probability in rows[: max(0, MOST - total)]:
                values = (name, label, round(probability, 4), _thumbnail(name, pixels))
                # A file's name must not end the script that holds it.
                file.write(json.dumps(values).replace("<", "\\u003c") + ",\n")
            total += len(rows)

        yield show
        file.write(after.replace("TOTAL", str(total)))


def _thumbnail(name: str, pixels: Callable[[Image.Image], NDArray[np.uint8]]) -> str:
    """Return an image, made small, as a JPEG in base64."""
    with open_file(name) as image:
        seen = pixels(image)
    return thumbnail(picture_of(seen), SIDE)
