"""A page for labeling in a browser: thumbnails, a button per class, a csv file to download."""

import json
from collections.abc import Sequence
from importlib.resources import files

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.labeling.suggestion import Suggestion
from pipeline.thumbnails import picture_of, thumbnail

LARGEST = 2000  # images on a page; each takes some kilobytes
_SIDE = 224  # pixels of a thumbnail's longer side


def page(
    suggestions: Sequence[Suggestion],
    pictures: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
) -> str:
    """Return the page, which needs no network.

    Args:
        suggestions: The images, in the order in which they are shown.
        pictures: Their pixels, ``[H, W, C]`` each.
        classes: The classes to choose from.
    """
    shown = [
        {**each._asdict(), "picture": _thumbnail(picture)}
        for each, picture in zip(suggestions, pictures, strict=True)
    ]
    text = files("pipeline.labeling").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # JSON inside <script>: no text of it may end the element.
    data = json.dumps({"images": shown, "classes": list(classes)}).replace("<", "\\u003c")
    return environment.from_string(text).render(count=len(shown), data=data)


def _thumbnail(picture: NDArray[np.uint8]) -> str:
    image = picture_of(picture)
    if max(image.size) < _SIDE:  # digits of 12 pixels
        scale = _SIDE // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return "data:image/jpeg;base64," + thumbnail(image, _SIDE)
